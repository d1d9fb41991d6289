"""A schedule is one file: dropped in, it is found, checked, named in errors, saved in the config and followed."""

from pathlib import Path

import pytest

from hierlm.config.load import dump_config, load_config
from hierlm.errors import UserError
from hierlm.phases import schedules
from hierlm.phases.timeline import Timeline
from tests.config.making import write

STAIRS = '''
"""The peak, divided by two on every stair."""

from typing import Literal

from pydantic import PositiveInt

from hierlm.phases.config import LearningRateConfig


class Config(LearningRateConfig):
    decay: Literal["stairs"] = "stairs"
    stairs: PositiveInt = 2


def rate(curve, progress):
    return curve.peak / 2 ** min(int(progress.since_warmup * curve.stairs), curve.stairs - 1)
'''


@pytest.fixture
def dropped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "stairs.py").write_text(STAIRS)
    monkeypatch.setattr(schedules, "__path__", [*schedules.__path__, str(tmp_path / "more")])


@pytest.mark.usefixtures("dropped_in")
def test_a_schedule_is_one_file(tmp_path: Path) -> None:
    rate = {"peak": 0.5, "decay": "stairs", "stairs": 4}
    phase = {"name": "a", "duration": {"steps": 9}, "sequence_length": 8, "global_batch_size": 1, "learning_rate": rate}
    file = write(tmp_path, {"phases": [phase]})
    config = load_config(file)
    timeline = Timeline(config.phases)
    assert [timeline.at(step).learning_rate for step in range(9)] == [0.5 / 2**k for k in (0, 0, 1, 1, 2, 2, 3, 3, 3)]
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config
    with pytest.raises(UserError) as raised:
        load_config(file, ["phases.0.learning_rate.decay=stair", "phases.0.learning_rate.stairs=5"])
    (line,) = raised.value.problems
    assert 'phases.0.learning_rate.decay: given "stair", allowed: constant, cosine,' in line
    assert line.startswith(str(file)) and "nearest: stairs" in line
    with pytest.raises(UserError, match=r"phases\.0\.learning_rate\.stairs: given 0, allowed: greater than 0"):
        load_config(file, ["phases.0.learning_rate.stairs=0"])
