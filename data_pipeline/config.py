"""What a user writes about the data of a run."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, model_validator

Verify = Literal["background", "before", "never"]


class SourceConfig(BaseModel):
    """One prepared dataset and its share of the training rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    weight: PositiveFloat = 1.0


class DataConfig(BaseModel):
    """Either one `path` or weighted `sources`; every dataset was made by `hierlm data prepare`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str | None = None
    sources: tuple[SourceConfig, ...] = ()
    tokenizer: str | None = Field(default=None, description="expected kind or fingerprint; a mismatch is refused")
    verify: Verify = Field(
        default="background",
        description="checksums of local shards, each once: beside training, before its first step, or never",
    )
    prefetch_batches: NonNegativeInt = Field(default=2, description="batches read ahead of the step; 0 = read in step")

    @model_validator(mode="after")
    def one_way_to_name_the_data(self) -> "DataConfig":
        if (self.path is None) == (not self.sources):
            raise ValueError("give either `path` or `sources`, one of them")
        return self

    @property
    def weighted_sources(self) -> tuple[SourceConfig, ...]:
        return self.sources or (SourceConfig(path=str(self.path)),)

    @property
    def source_names(self) -> tuple[str, ...]:
        """How each source is called in metrics and reports: the end of its path, as much of it as tells it apart."""
        return _short_names([source.path for source in self.weighted_sources])


def _short_names(paths: Sequence[str]) -> tuple[str, ...]:
    parts = [PurePosixPath(path).parts for path in paths]
    longest = max(map(len, parts))
    candidates = (["-".join(part[-size:]) for part in parts] for size in range(1, longest + 1))
    names = next((found for found in candidates if len(set(found)) == len(found)), None)
    if names is None:  # one dataset named twice
        names = [f"{'-'.join(part)}-{number}" for number, part in enumerate(parts)]
    # what every tracker takes as part of a metric's name
    return tuple(re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_") for name in names)
