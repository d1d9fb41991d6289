"""Exponents are recovered, and what is drawn is one small file that needs nothing else."""

import random
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.benchmarks import bench_costs
from tests.benchmarks.cost_curves import AXES, CostCurve, Point, draw, fit, table


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5, 2.0])
def test_a_known_exponent_is_recovered_under_noise(exponent: float):
    noise = random.Random(0)
    sizes = [2**n for n in range(8, 15)]
    law = fit(sizes, [3e-6 * size**exponent * noise.uniform(0.98, 1.02) for size in sizes])
    assert law is not None and law.exponent == pytest.approx(exponent, abs=0.03)
    assert exponent == 0.0 or law.r2 > 0.99


def test_what_does_not_grow_bends_the_lower_part_only():
    sizes = [2**n for n in range(8, 15)]
    costs = [0.1 + 1e-7 * size**2 for size in sizes]
    upper, lower = fit(sizes, costs), fit(sizes[:3], costs[:3])
    assert upper is not None and lower is not None
    assert lower.exponent < 0.6 and 1.7 < upper.exponent < 2.0


def curves() -> list[CostCurve]:
    points = [Point(size, size * 1e-3, size * 2**20) for size in (1, 2, 4, 8)]
    return [CostCurve(model, axis, points, "16 and more") for axis in AXES for model in ("a", "b", "c", "d")]


def test_the_plot_is_one_small_file_without_references(tmp_path: Path):
    draw(curves(), tmp_path / "costs.svg", title="four models")
    text = (tmp_path / "costs.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg") and len(text) < 200_000
    assert "<image" not in text and 'href="http' not in text


def test_the_table_tells_what_was_left_out():
    lines = table(curves()[:1]).splitlines()
    assert "1.00 (1.000)" in lines[1] and "left out: 16 and more" in lines[2]


def test_a_size_that_would_take_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_costs, "LONGEST_SECONDS", 0.0)
    found = bench_costs.curve("lmu", "tokens", (16, 32, 64))
    assert found.sizes == [16] and "tokens 32 and more" in found.left_out


def test_longer_rows_take_more_memory():
    found = bench_costs.curve("transformer", "tokens", (64, 256))
    assert found.left_out == "" and found.points[1].bytes > 2 * found.points[0].bytes
