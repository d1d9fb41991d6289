"""What a user writes about the data of a run."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, model_validator

from data_pipeline.masking import PIPE, holds_secret


def place_of_data(path: str) -> str:
    """A folder or an address; ValueError for a command, which a config never runs, and for what must not be kept."""
    if path.lstrip().startswith(PIPE):
        raise ValueError(
            "`pipe:` is for `hierlm data prepare --input` alone, no config runs a command; prepare what it gives as a "
            "dataset, and name its folder"
        )
    if holds_secret(path):
        raise ValueError(
            "holds a secret, and a config is written down and sent on; leave it out and give it to the store's own "
            "client (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, ...)"
        )
    if not path.isprintable() or ("://" in path and "::" in path):
        raise ValueError("allowed: a folder or one address, on one line")
    return path


Place = Annotated[str, AfterValidator(place_of_data)]

Verify = Literal["background", "before", "never"]


class SourceConfig(BaseModel):
    """One prepared dataset and its share of the training rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: Place
    weight: PositiveFloat = 1.0


class DataConfig(BaseModel):
    """Either one `path` or weighted `sources`; every dataset was made by `hierlm data prepare`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: Place | None = None
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
