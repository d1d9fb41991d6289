"""What a user writes about the data of a run."""

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, model_validator


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
    prefetch_batches: NonNegativeInt = Field(default=2, description="batches read ahead of the step; 0 = read in step")

    @model_validator(mode="after")
    def one_way_to_name_the_data(self) -> "DataConfig":
        if (self.path is None) == (not self.sources):
            raise ValueError("give either `path` or `sources`, one of them")
        return self

    @property
    def weighted_sources(self) -> tuple[SourceConfig, ...]:
        return self.sources or (SourceConfig(path=str(self.path)),)
