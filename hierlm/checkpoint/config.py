"""What a user writes about checkpoints, and about weights of another training to begin with."""

import re
from collections.abc import Iterable
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from hierlm.phases.config import Duration
from hierlm.strict import Strict


class KeepEvery(Strict):
    """A cadence in steps."""

    steps: PositiveInt


class CheckpointConfig(Strict):
    """One checkpoint is always written at the end and on a stop request, whatever `every` says.

    The last one of each phase and the newest that was written at the end or on a stop request stay besides `keep`.
    """

    every: Duration = Duration(steps=1000)
    keep: PositiveInt = Field(default=2, description="newest checkpoints kept; older ones are removed")
    keep_every: KeepEvery | None = Field(default=None, description="written and kept for ever, besides `keep`")
    asynchronous: bool = Field(
        default=False, description="train on while a copy in host memory is written; takes that memory"
    )
    conversion_memory_bytes: int = Field(
        default=2**28, ge=2**20, description="of tensors, in each process that converts a checkpoint to another layout"
    )
    unproven: Literal["refuse", "accept"] = Field(
        default="refuse",
        description="a checkpoint that, loaded, answers otherwise than when it was saved: `accept` says so and goes on",
    )


class InitFromConfig(Strict):
    """Weights that another training left. A run begins with them; its optimizer, data position and step are new.

    They are read once, before the first step: what is gone on with later is the run's own checkpoint.
    """

    path: str = Field(
        min_length=1,
        description="a run (a directory or a name below run_root), what `hierlm checkpoint export` wrote, a "
        "safetensors file, or a folder with model.safetensors or model.safetensors.index.json",
    )
    checkpoint: NonNegativeInt | None = Field(
        default=None, description="of a run: the step; null: its newest good checkpoint"
    )
    map: dict[str, str] = Field(
        default_factory=dict,
        description="regular expressions for whole names there -> the names here, with \\1 for a group; the first "
        "that matches decides, other names stay as they are",
    )
    strict: bool = Field(
        default=True, description="false: what is missing there begins as it is drawn, what is not known here is left"
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="regular expressions for whole names here, or modules, that begin as they are drawn"
    )

    @field_validator("path")
    @classmethod
    def lies_on_a_disk(cls, path: str) -> str:
        if "://" in path:
            raise ValueError("an address: weights are read from a path; copy them to where every process sees them")
        return path

    @field_validator("map")
    @classmethod
    def names_can_be_made(cls, pairs: dict[str, str]) -> dict[str, str]:
        _require_patterns(pairs)
        for pattern, name in pairs.items():
            try:
                re.compile(f"(?:{pattern})|").sub(name, "")  # the empty text, in which no group has matched
            except (re.error, IndexError) as error:
                raise ValueError(f"{name!r} cannot be made of what {pattern!r} matches: {error}") from None
        return pairs

    @field_validator("exclude")
    @classmethod
    def are_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        _require_patterns(patterns)
        return patterns


def _require_patterns(patterns: Iterable[str]) -> None:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
