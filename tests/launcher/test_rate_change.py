"""A run made longer does not change its learning rate without a word."""

import re
from pathlib import Path

import pytest

from hierlm.config.load import load_config
from hierlm.phases.timeline import Timeline
from launcher.rate_change import Config, rate_change
from tests.config.making import mapping, write

PEAK, FINAL = 3e-3, 3e-4


def run(folder: Path, *, steps: int = 60, decay: str = "cosine", more: str | None = None) -> Config:
    rate = {"peak": PEAK, "warmup": {"steps": 5}, "decay": decay, "final": FINAL}
    first = {**mapping()["phases"][0], "duration": {"steps": steps}, "learning_rate": rate}
    path = write(folder, {"phases": [first]})
    loaded = load_config(path)
    if more is None:
        return loaded
    return load_config(path, [f"phases=[{{{_flow(first)}}}, {more}]"])


def _flow(first: dict[str, object]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in first.items()).replace("'", "")


def test_a_longer_last_phase_says_both_rates_and_the_way_that_leaves_them(tmp_path: Path) -> None:
    longer = run(tmp_path, steps=120)
    line = rate_change(run(tmp_path), longer, step=60)
    assert line is not None and "\n" not in line
    coming = Timeline(longer.phases).at(60).learning_rate
    assert coming > 5 * FINAL
    assert f"goes from 3.0e-04 at step 60 to {coming:.1e} at step 61" in line
    assert "now ends at step 120, no longer at 60" in line
    assert "{name: more, duration: ..., learning_rate: {peak: 3.0e-04, decay: constant}}" in line


def test_the_offered_phase_leaves_every_rate_that_was_planned(tmp_path: Path) -> None:
    old = run(tmp_path)
    line = rate_change(old, run(tmp_path, steps=120), step=60)
    offered = re.search(r"\{name: more.*\}\}", line or "")
    assert offered is not None
    new = run(tmp_path, more=offered[0].replace("...", "{steps: 60}"))
    assert rate_change(old, new, step=60) is None
    before, after = Timeline(old.phases), Timeline(new.phases)
    assert [after.at(i).learning_rate for i in range(60)] == [before.at(i).learning_rate for i in range(60)]
    assert after.at(60).learning_rate == pytest.approx(FINAL)


def test_a_further_phase_without_a_rate_bends_the_curve_as_well(tmp_path: Path) -> None:
    line = rate_change(run(tmp_path), run(tmp_path, more="{name: more}"), step=60)
    assert line is not None and "from 3.0e-04 at step 60" in line


@pytest.mark.parametrize("decay", ["constant", "inverse_sqrt"])
def test_a_rate_that_goes_on_as_planned_is_not_told(tmp_path: Path, decay: str) -> None:
    told = rate_change(run(tmp_path, decay=decay), run(tmp_path, steps=120, decay=decay), step=40)
    assert told is None


def test_a_run_stopped_on_its_way_is_told_from_where_it_stands(tmp_path: Path) -> None:
    old, new = run(tmp_path), run(tmp_path, steps=120)
    now, then = (Timeline(config.phases).at(step).learning_rate for config, step in ((old, 39), (new, 40)))
    assert f"from {now:.1e} at step 40 to {then:.1e} at step 41" in (rate_change(old, new, step=40) or "")
    assert rate_change(old, new, step=0) is None  # nothing has been trained
