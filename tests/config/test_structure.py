from pathlib import Path

import pytest

from hierlm.config.structure import differences, fingerprint, harmless_differences, is_extended
from tests.config.making import config


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=2", "seed: 1234 -> 2"),
        ("model.num_layers=3", "model.num_layers: 2 -> 3"),
        ("phases.0.learning_rate.peak=0.5", "phases.0.learning_rate.peak: 0.001 -> 0.5"),
        ("phases.0.global_batch_size=16", "phases.0.global_batch_size: 8 -> 16"),
        ("optim.weight_decay=0", "optim.weight_decay: 0.1 -> 0.0"),
        ("optim.name=lion", 'optim.name: "adamw" -> "lion"'),  # not its other fields one by one
        ("train.precision=fp32", 'train.precision: "bf16" -> "fp32"'),
        ("phases.1.optimizer_state=reset", 'phases.1.optimizer_state: "keep" -> "reset"'),
    ],
)
def test_what_decides_the_numbers_is_structural(tmp_path: Path, override: str, line: str) -> None:
    old, new = config(tmp_path), config(tmp_path, override)
    assert line in differences(old, new)
    assert harmless_differences(old, new) == []


@pytest.mark.parametrize(
    "override",
    [
        "parallel.data_parallel_degree=2",
        "parallel.zero_stage=0",
        "checkpoint.every.steps=7",
        "tracking.experiment=other",
        "train.log_every.steps=1",
        "data.prefetch_batches=0",
        "data.path=moved",
    ],
)
def test_layout_cadence_and_tracking_are_harmless(tmp_path: Path, override: str) -> None:
    old, new = config(tmp_path), config(tmp_path, override)
    assert differences(old, new) == []
    assert [line.partition(":")[0] for line in harmless_differences(old, new)] == [override.partition("=")[0]]


def test_the_end_of_a_curve_is_one_number_however_it_is_written(tmp_path: Path) -> None:
    old, new = config(tmp_path), config(tmp_path, "phases.0.learning_rate.final_fraction=0.1")
    assert differences(old, new) == []
    assert fingerprint(old) == fingerprint(new)
    longer = ["phases.0.learning_rate.final_fraction=0.1", "phases.1.duration.tokens=50000"]
    assert is_extended(old, config(tmp_path, *longer))
    other = config(tmp_path, "phases.0.learning_rate.final_fraction=0.2")
    assert differences(old, other)[0] == "phases.0.learning_rate.final: 0.0001 -> 0.0002"


def test_a_path_and_a_single_source_are_the_same_data(tmp_path: Path) -> None:
    assert differences(config(tmp_path), config(tmp_path, "data.sources=[{path: data/some}]")) == []


def test_another_source_is_structural(tmp_path: Path) -> None:
    more = config(tmp_path, "data.sources=[{path: data/some}, {path: more}]")
    assert differences(config(tmp_path), more) == ['data.sources.1: absent -> {"weight": 1.0}']


def test_only_the_end_of_the_timeline_may_grow(tmp_path: Path) -> None:
    old = config(tmp_path)
    assert is_extended(old, config(tmp_path, "phases.1.duration.tokens=50000"))
    assert not is_extended(old, old)
    assert not is_extended(old, config(tmp_path, "phases.1.duration.tokens=100"))
    assert not is_extended(old, config(tmp_path, "phases.0.duration.steps=20"))
    assert not is_extended(old, config(tmp_path, "phases.1.duration.tokens=50000", "seed=2"))
    assert not is_extended(old, config(tmp_path, "phases.1.duration.tokens=50000", "phases.1.sequence_length=256"))


def test_phases_may_be_added_behind(tmp_path: Path) -> None:
    long = config(tmp_path)
    short = long.model_copy(update={"phases": long.phases[:1]})
    assert is_extended(short, long)
    assert not is_extended(long, short)
