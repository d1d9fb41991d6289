"""The table of published speeds (shared data: README.md there)."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hierlm.parallel.degrees import Degrees


class Row(NamedTuple):
    """One published measurement."""

    source: str
    model: str
    num_layers: int
    hidden_dim: int
    num_heads: int
    ffn_dim: int
    vocab_size: int
    sequence_length: int
    device: str  # as `hierlm plan` calls it
    degrees: Degrees
    zero_stage: int
    micro_batch: int | None  # None: not published
    global_batch: int
    recompute: str  # none, core (attention's scores) or full
    sequence_parallel: bool
    precision: str
    step_seconds: float

    @property
    def what(self) -> str:
        """For people."""
        layout = "x".join(str(self.degrees[axis]) for axis in ("tensor", "pipeline", "data"))
        return f"{self.model:<7}{self.sequence_length:>6}  {self.device:<10}{layout:>10}  {self.recompute:<5}"


def read_rows(path: Path) -> list[Row]:
    """Every row of the file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [_row(line) for line in csv.DictReader(file)]


def _row(line: Mapping[str, str]) -> Row:
    def number(name: str) -> int:
        return int(line[name])

    degrees = Degrees(tensor=number("tensor"), pipeline=number("pipeline"), data=number("data"))
    return Row(
        source=line["source"],
        model=line["model"],
        **{name: number(name) for name in ("num_layers", "hidden_dim", "num_heads", "ffn_dim", "vocab_size")},
        sequence_length=number("sequence_length"),
        device=line["device"].removesuffix("-80gb"),
        degrees=degrees,
        zero_stage=number("zero_stage"),
        micro_batch=int(line["micro_batch"]) if line["micro_batch"] else None,
        global_batch=number("global_batch"),
        recompute="core" if "attention" in line["recompute"] else line["recompute"],
        sequence_parallel=line["sequence_parallel"] == "True",
        precision=line["precision"],
        step_seconds=_step_seconds(line, degrees.world_size),
    )


def _step_seconds(line: Mapping[str, str], num_devices: int) -> float:
    if line["step_seconds"]:
        return float(line["step_seconds"])
    tokens = int(line["global_batch"]) * int(line["sequence_length"])
    return tokens / (float(line["tokens_per_second_per_device"]) * num_devices)
