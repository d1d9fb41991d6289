"""A conversion opens what it needs, and keeps in memory what it is allowed to, however large the tensors are."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hierlm.checkpoint.division import divide
from hierlm.checkpoint.tensor_file import read_mapping
from tests.checkpoint.counting import counted_on
from tests.checkpoint.engine_checkpoint import STATES, Shapes, numbers, write_engine_files
from tests.conftest import ROOT

RANKS = 4
MEBIBYTE = 1 << 20


def model(width: int, *, vocab_size: int, num_layers: int) -> Shapes:
    shapes: Shapes = {"0.embedding": (vocab_size, width)}
    for layer in range(1, num_layers + 1):
        shapes |= {f"{layer}.into": (4 * width, width), f"{layer}.out": (width, 4 * width), f"{layer}.gain": (width,)}
    return shapes


def converted(folder: Path, *, memory_bytes: int) -> list[dict[str, Any]]:
    """What each of four real processes says."""
    command = [sys.executable, "-m", "tests.checkpoint.converting_rank", str(folder), str(memory_bytes)]
    ranks = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(RANKS), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(RANKS)
    ]
    return [json.loads(rank.communicate(timeout=900)[0]) for rank in ranks]


def check_values(folder: Path, shapes: Shapes) -> None:
    start = 0
    for name, shape in shapes.items():
        place = folder / "converted" / "engine" / "zero" / name
        count = torch.Size(shape).numel()
        for kind, factor in {"fp32": 1.0, **STATES}.items():
            saved = read_mapping(place / f"{kind}.pt")
            assert saved["param"].shape == shape
            assert torch.equal(saved["param"].view(-1), numbers(start, count) * factor), (name, kind)
        assert torch.load(place / "fp32.pt", weights_only=True)["param"].shape == shape  # by torch's own reader
        start += count


@pytest.mark.distributed
@pytest.mark.slow
def test_four_ranks_convert_with_less_memory_than_the_largest_tensor(tmp_path: Path) -> None:
    shapes = model(256, vocab_size=36864, num_layers=1)  # the embedding: 36 MiB
    write_engine_files(tmp_path / "engine", shapes, dp=RANKS)
    allowed = 4 * MEBIBYTE
    ranks = converted(tmp_path, memory_bytes=allowed)
    check_values(tmp_path, shapes)
    for rank in ranks:
        assert rank["after"] - rank["before"] < allowed + 24 * MEBIBYTE, ranks  # buffers of files and messages
        assert max(rank["opened"].values()) <= 2 * 2, ranks  # to look in and to convert: the archive, and its pickle


@pytest.mark.matrix
def test_a_gigabyte_is_converted_by_four_ranks_of_400_mebibytes_each(tmp_path: Path) -> None:
    shapes = model(1024, vocab_size=50257, num_layers=4)
    write_engine_files(tmp_path / "engine", shapes, dp=RANKS)
    size = sum(file.stat().st_size for file in (tmp_path / "engine").iterdir())
    assert size > 2**30
    ranks = converted(tmp_path, memory_bytes=64 * MEBIBYTE)
    check_values(tmp_path, shapes)
    print(size, [{key: rank[key] // MEBIBYTE for key in ("before", "after")} for rank in ranks])
    assert max(rank["after"] for rank in ranks) < 400 * MEBIBYTE, ranks


@pytest.mark.parametrize("size", [pytest.param(64, id="64"), pytest.param(512, id="512", marks=pytest.mark.matrix)])
def test_of_many_ranks_each_opens_a_few_files_and_is_told_little(size: int, tmp_path: Path) -> None:
    """As many source files as ranks, as in a resume of a large run on another layout."""
    shapes = model(8, vocab_size=32, num_layers=size)
    write_engine_files(tmp_path / "engine", shapes, dp=size)
    results, _, longest = counted_on(size, tmp_path, lambda team: divide(tmp_path / "engine", team=team))
    shares = [share for share, _ in results]
    assert sorted(name for share in shares for name in share.names) == sorted(shapes)
    for share in shares:
        assert sum(len(files.optimizers) for files in share.files) <= 3, share
    assert sum(len(files.optimizers) for share in shares for files in share.files) <= 3 * size
    assert longest < MEBIBYTE and results[1][1] is None
