"""Rows, repetitions, differences and the Pareto front."""

import math
from itertools import product
from statistics import stdev

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hierlm.report.columns import all_columns
from hierlm.report.compare import Row, compare, pareto_front
from hierlm.report.figures import trade_off
from hierlm.report.run_record import RunRecord, load_run
from hierlm.report.text import plain
from tests.report.conftest import MakeRun, loss_at


def _load(*run_dirs: object) -> list[RunRecord]:
    return [load_run(run_dir.path) for run_dir in run_dirs]  # type: ignore[attr-defined]


def test_rows_are_sorted_best_first_by_bits_per_byte(make_run: MakeRun) -> None:
    runs = _load(make_run("a", floor=1.5), make_run("b", arch="lmu", floor=1.0), make_run("c", arch="lstm", floor=1.2))
    assert [row.label for row in compare("demo", runs).rows] == ["b", "c", "a"]


@pytest.mark.parametrize(("column", "order"), [("peak_device_memory_bytes", ["b", "a"]), ("run", ["a", "b"])])
def test_any_column_sorts(make_run: MakeRun, column: str, order: list[str]) -> None:
    runs = _load(make_run("a", memory_bytes=200), make_run("b", arch="lmu", floor=2.0, memory_bytes=100))
    assert [row.label for row in compare("demo", runs, sort=column).rows] == order


def test_runs_that_differ_only_in_the_seed_are_one_row_with_mean_and_deviation(make_run: MakeRun) -> None:
    floors = {1: 1.0, 2: 1.1, 3: 1.3}
    runs = _load(*(make_run(f"demo-seed{seed}", seed=seed, floor=floor) for seed, floor in floors.items()))
    (row,) = compare("demo", runs).rows
    losses = [loss_at(100, floor=floor) for floor in floors.values()]
    assert row.label == "demo"
    assert row.values["loss"] == pytest.approx(sum(losses) / 3)
    assert row.deviations["loss"] == pytest.approx(stdev(losses))
    assert row.values["seed"] == "3 seeds"
    assert "±" in row.shown("loss")
    assert len(compare("demo", runs, each=True).rows) == 3


def test_another_setting_is_another_row_and_is_listed(make_run: MakeRun) -> None:
    runs = _load(make_run("k2", model={"shorten_factor": 2}), make_run("k4", model={"shorten_factor": 4}, floor=2.0))
    comparison = compare("demo", runs)
    assert comparison.differences == {"model.shorten_factor": ("2", "4")}


def test_a_setting_only_one_run_has_is_a_difference(make_run: MakeRun) -> None:
    runs = _load(make_run("a"), make_run("b", arch="lmu", floor=2.0, model={"memory_order": 8}))
    assert compare("demo", runs).differences["model.memory_order"] == (None, "8")


def test_a_run_without_a_summary_shows_what_its_records_say(make_run: MakeRun) -> None:
    (row,) = compare("demo", _load(make_run("going", summary=False))).rows
    assert row.values["loss"] == pytest.approx(loss_at(100, floor=1.0))
    assert (row.values["steps"], row.values["tokens_seen"], row.values["tokens_per_second"]) == (100, 102_400, 2048)
    assert (row.values["num_parameters"], row.shown("num_parameters")) == (None, "-")


def test_without_bits_per_byte_runs_are_judged_by_loss(make_run: MakeRun) -> None:
    run_dir = make_run("a", summary=False)
    run_dir.metrics.write_text('{"kind": "eval", "split": "valid", "step": 1, "loss": 2.0}\n')
    assert compare("demo", _load(run_dir)).quality == "loss"


def test_plain_text_is_aligned_and_has_every_known_column(make_run: MakeRun) -> None:
    text = plain(compare("demo", _load(make_run("a"), make_run("a-much-longer-name", arch="lmu", floor=2.0))))
    table = text.split("\n\n")[0].splitlines()
    assert len({line.index(word) for line, word in zip(table[1:], ("hourglass", "lmu"), strict=True)}) == 1
    assert "\x1b" not in text
    known = ("bits/byte", "loss", "ppl", "params", "memory", "tok/s", "tokens", "wall", "FLOPs", "non-emb")
    assert all(title in table[0] for title in known)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(points=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_the_front_is_what_no_other_row_beats_in_both(points: list[tuple[int, int]]) -> None:
    nothing = dict.fromkeys((column.key for column in all_columns()), None)
    rows = [Row(str(i), (), {**nothing, "wall_seconds": x, "loss": y}, {}) for i, (x, y) in enumerate(points)]
    front = pareto_front(rows, cost="wall_seconds", quality="loss")
    places = [(row.values["wall_seconds"], row.values["loss"]) for row in front]
    assert places == sorted(set(places), key=lambda place: place[0])
    for place in places:
        assert not any(x <= place[0] and y <= place[1] and (x, y) != place for x, y in points)
    for x, y in points:
        assert any(a <= x and b <= y for a, b in places)


def test_unknown_values_are_never_on_the_front() -> None:
    nothing = dict.fromkeys((column.key for column in all_columns()), None)
    rows = [
        Row(f"{x}{y}", (), {**nothing, "wall_seconds": x, "loss": y}, {})
        for x, y in product((None, 1.0, math.nan), repeat=2)
    ]
    assert [row.label for row in pareto_front(rows, cost="wall_seconds", quality="loss")] == ["1.01.0"]


def test_error_bars_lie_within_their_plot(make_run: MakeRun) -> None:
    runs = [load_run(make_run(f"h-seed{n}", seed=n, floor=1 + n, memory_bytes=n * 2**28).path) for n in (1, 2)]
    runs.append(load_run(make_run("other", arch="lmu", memory_bytes=2**28).path))
    figure = trade_off(compare("demo", runs), cost="peak_device_memory_bytes")
    assert figure is not None
    for axis in ("x", "y"):
        low, high = figure["layout"][f"{axis}axis"]["range"]
        for point in figure["data"][1:]:
            deviation = point[f"error_{axis}"]["array"][0]
            assert low < point[axis][0] - deviation and point[axis][0] + deviation < high


def test_images_are_judged_by_bits_per_dimension_and_only_they_show_it(make_run: MakeRun) -> None:
    text, images = make_run("text"), make_run("images", arch="lmu", summary=False)
    images.metrics.write_text(
        '{"kind": "eval", "split": "valid", "step": 1, "loss": 2.0, "bits_per_byte": 2.9, "bits_per_dimension": 2.9}\n'
    )
    only_images = compare("demo", _load(images))
    assert only_images.quality == "bits_per_dimension"
    assert "bits/dim" in plain(only_images).splitlines()[0]
    assert "bits/dim" not in plain(compare("demo", _load(text)))
    assert compare("demo", _load(text, images)).quality == "bits_per_byte"
