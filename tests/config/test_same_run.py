"""What a checkpoint knows of the config it was made with decides what may go on from it."""

import json
from pathlib import Path
from typing import Any

import pytest

from hierlm.config.load import plain_config
from hierlm.config.same_run import changes_since
from hierlm.config.structure import fingerprint, structural
from tests.config.making import config


def changes(saved: Any, now: Any, *, told: bool = True) -> list[str]:
    """As a manifest on disk brings them."""
    known = json.loads(json.dumps(plain_config(saved))) if told else None
    return changes_since(known, saved_fingerprint=fingerprint(saved), saved_seed=saved.seed, config=now)


@pytest.mark.parametrize(
    "override", ["parallel.data_parallel_degree=2", "train.log_every.steps=1", "data.path=moved", "name=other"]
)
def test_what_does_not_decide_the_numbers_may_change(tmp_path: Path, override: str) -> None:
    assert changes(config(tmp_path), config(tmp_path, override)) == []


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=2", "seed: 1234 -> 2"),
        ("model.dropout=0.3", "model.dropout: 0.0 -> 0.3"),
        ("optim.weight_decay=0", "optim.weight_decay: 0.1 -> 0.0"),
        ("train.precision=fp32", 'train.precision: "bf16" -> "fp32"'),
        ("init_from.path=runs/other", "init_from: absent -> {"),
        ("phases.0.duration.steps=20", "phases.0.duration.steps: 10 -> 20"),
    ],
)
def test_what_decides_the_numbers_is_told_by_name(tmp_path: Path, override: str, line: str) -> None:
    assert any(each.startswith(line) for each in changes(config(tmp_path), config(tmp_path, override)))


def test_a_run_made_longer_at_its_end_is_the_same_run(tmp_path: Path) -> None:
    assert changes(config(tmp_path), config(tmp_path, "phases.1.duration.tokens=50000")) == []
    assert changes(config(tmp_path), config(tmp_path, "phases.1.duration.tokens=50000", "seed=2")) != []


def test_of_a_checkpoint_that_does_not_hold_its_config_the_seed_is_compared(tmp_path: Path) -> None:
    assert changes(config(tmp_path), config(tmp_path, "seed=2"), told=False) == ["seed: 1234 -> 2"]
    assert changes(config(tmp_path), config(tmp_path, "model.num_layers=3"), told=False) == []


def test_a_config_of_another_version_is_compared_as_far_as_it_can_be_read(tmp_path: Path) -> None:
    now = config(tmp_path, "seed=2")
    unknown = {**plain_config(config(tmp_path)), "a_field_of_old": 1}
    assert changes_since(unknown, saved_fingerprint="f", saved_seed=1234, config=now) == ["seed: 1234 -> 2"]


def test_a_run_that_draws_its_first_weights_has_the_fingerprint_that_it_had_before_there_were_others(
    tmp_path: Path,
) -> None:
    assert "init_from" not in structural(config(tmp_path))
    begun = config(tmp_path, "init_from.path=runs/other")
    assert changes(begun, config(tmp_path, "init_from.path=runs/other", "train.log_every.steps=1")) == []
    assert changes(begun, config(tmp_path, "init_from={path: runs/other, checkpoint: 5}")) == [
        "init_from.checkpoint: null -> 5"
    ]
