"""The engine's files give up their tensors without its classes and without running their code."""

import dataclasses
import os
from pathlib import Path

import torch

from hierlm.checkpoint.tensor_file import Sealed, read_tensors


@dataclasses.dataclass
class Address:
    start: int
    numel: int


class Bomb:
    def __init__(self, fuse: Path) -> None:
        self.fuse = fuse

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.fuse}",)


def test_tensors_come_back_and_foreign_objects_are_sealed_data(tmp_path: Path) -> None:
    content = {
        "half": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
        "trained": torch.nn.Parameter(torch.ones(3)),
        "address": Address(start=3, numel=4),
        "shape": torch.Size([2, 3]),
        "plain": [1, 2.5, "x", None, {"a": (1,)}],
    }
    torch.save(content, tmp_path / "x.pt")
    read = read_tensors(tmp_path / "x.pt")
    assert torch.equal(read["half"], content["half"]) and read["half"].dtype == torch.bfloat16
    assert torch.equal(read["trained"], torch.ones(3))
    assert isinstance(read["address"], Sealed) and (read["address"].start, read["address"].numel) == (3, 4)
    assert read["shape"] == content["shape"] and read["plain"] == content["plain"]


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"x": Bomb(tmp_path / "boom")}, tmp_path / "x.pt")
    assert isinstance(read_tensors(tmp_path / "x.pt")["x"], Sealed)
    assert not (tmp_path / "boom").exists()
