"""A file of the right words but another structure than hierlm saves is refused in one line that names it."""

import copy
import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from hierlm.checkpoint.canonical import CanonicalState
from hierlm.checkpoint.digest import digest
from hierlm.checkpoint.engine_files import Slice
from hierlm.checkpoint.recurrent import MEMORY, read_recurrent_states, write_recurrent_state
from hierlm.durable import FileWriter
from hierlm.errors import UserError
from tests.checkpoint.layouts import overrides, small_engine
from tests.data_pipeline.hostile import Watch
from tests.distributed.spawn import run_ranks

NASTY: tuple[Any, ...] = (None, -1, 0, 1 << 70, "x", [], {}, (), {"a": []}, torch.zeros(0), torch.ones(3), 1.5, True)
STAGES = (0, 1, 3)


def saved(stage: int, folder: str) -> None:
    engine, root = small_engine("transformer", overrides(zero=stage)), Path(folder)
    engine.save(root, client_state={"iteration": 0}, open_file=FileWriter(root).open)


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (holder, key) of what a file holds; of long collections a few."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    for key in keys[:8] + keys[-4:] if len(keys) > 12 else keys:
        yield tree, key
        yield from places(tree[key])


def changed(content: Any, draw: random.Random) -> Any:
    """One or two places of a file replaced or left out."""
    tree = copy.deepcopy(content)
    for _ in range(draw.choice([1, 1, 2])):
        if not (all_places := list(places(tree))):
            return draw.choice(NASTY)
        holder, key = draw.choice(all_places)
        if isinstance(holder, dict) and draw.random() < 0.4:
            holder.pop(key)
        else:
            holder[key] = copy.deepcopy(draw.choice(NASTY))
    return tree


def torn_checkpoints(folder: Path, *, seed: int, count: int) -> Iterator[tuple[Path, Path]]:
    """(folder, changed file) of as many checkpoints, one after the other in the same place."""
    draw, work = random.Random(seed), folder / "work"
    files = [path.relative_to(folder / "good") for path in sorted((folder / "good").rglob("*.pt"))]
    contents = {file: torch.load(folder / "good" / file, weights_only=False) for file in files}
    for _ in range(count):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(folder / "good", work)
        file = draw.choice(files)
        torch.save(changed(contents[file], draw), work / file)
        yield work, work / file


def refused_by_readers(stage: int, folder: str, seed: int, count: int) -> int:
    """How many of so many checkpoints a digest or the memories' reader refuses, each in one line."""
    good = Path(folder) / "good"
    saved(stage, str(good))
    memories = {0: (torch.ones(2, 3),), 2: (torch.ones(2, 4), torch.ones(2, 1))}
    write_recurrent_state(good, (0, memories), rank=0, open_file=FileWriter(good).open)
    refused, watch = 0, Watch(Path(folder))
    digest(good / "engine")  # what that imports may be opened
    for work, file in torn_checkpoints(Path(folder), seed=seed, count=count):
        try:
            with watch.on():
                read_recurrent_states(work) if file.parent.name == MEMORY else digest(work / "engine")
        except UserError as error:
            refused += 1
            assert len(error.problems) == 1 and "\n" not in str(error), error
            assert str(work) in str(error), error
        except ValueError as error:  # not whole: a file is missing or told to be
            assert str(work) in str(error), error
            refused += 1
    assert not watch.seen, watch.seen[:5]
    return refused


def refused_by_the_engine(stage: int, folder: str, seed: int, count: int) -> int:
    """The same of the engine's own load."""
    good = Path(folder) / "good"
    saved(stage, str(good))
    engine, refused = small_engine("transformer", overrides(zero=stage)), 0
    for work, _ in torn_checkpoints(Path(folder), seed=seed, count=count):
        try:
            engine.is_grouped_as(work)
            engine.load(work)
        except UserError as error:
            refused += 1
            assert len(error.problems) == 1 and "\n" not in str(error) and str(work) in str(error), error
        with suppress(UserError):
            engine.load(good)
    return refused


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_engine_refuses_it_in_one_line(stage: int, tmp_path: Path) -> None:
    (refused,) = run_ranks(refused_by_the_engine, 1, stage, str(tmp_path), 1, 30)
    assert refused > 3


@pytest.mark.parametrize("stage", [1])
def test_readers_refuse_it_in_one_line(stage: int, tmp_path: Path) -> None:
    (refused,) = run_ranks(refused_by_readers, 1, stage, str(tmp_path), 2, 60)
    assert refused > 10


def test_a_checkpoint_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no parameters"):
        CanonicalState([Slice(0, 0, {}, {}, {})], where=tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("stage", STAGES)
def test_and_so_are_many_more(stage: int, tmp_path: Path) -> None:
    (refused,) = run_ranks(refused_by_readers, 1, stage, str(tmp_path), 2000 + stage, 700, timeout_seconds=3000)
    assert refused > 100
