"""What every architecture's Config has in common. Torch-free: config errors are found without torch."""

from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from hierlm.strict import Strict


def train_switch(default: Any = ..., **kwargs: Any) -> Any:
    """A field that a phase may change (`phases.N.model.<field>`) without changing the weights' shapes."""
    return Field(default, json_schema_extra={"train_switch": True}, **kwargs)


class ModelConfig(Strict):
    """Base of `hierlm.models.<arch>.Config`; `arch` is the file name."""

    arch: str
    vocab_size: PositiveInt = Field(default=256, description="tokens of the tokenizer; 256 for bytes")

    @classmethod
    def train_switches(cls) -> frozenset[str]:
        """Names of the fields a phase may change."""
        return frozenset(
            name
            for name, field in cls.model_fields.items()
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("train_switch")
        )


class BlockConfig(ModelConfig):
    """What every architecture made of transformer blocks has in common."""

    hidden_dim: PositiveInt = Field(description="width D of the residual stream")
    num_heads: PositiveInt = Field(description="attention heads H; hidden_dim / num_heads numbers each")
    ffn_dim: PositiveInt = Field(description="width F inside the feed-forward")
    dropout: float = train_switch(0.0, ge=0, lt=1, description="on the embedding and on what a sublayer adds")
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"

    @model_validator(mode="after")
    def heads_divide_the_width(self) -> "BlockConfig":
        if self.hidden_dim % self.num_heads or (self.hidden_dim // self.num_heads) % 2:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be num_heads ({self.num_heads}) times an even number")
        return self


class MultiScaleConfig(BlockConfig):
    """What the three multi-scale transformers have in common."""

    scales: tuple[PositiveInt, ...] = Field(
        default=(1, 4, 16), min_length=1, description="tokens a position, finest first; each divides the next"
    )
    downsampling: Literal["average", "convolution", "linear"] = "average"
    kernel_groups: PositiveInt = Field(default=2, description="groups a strided convolution reads; 1 = linear")
    tie_embeddings: bool = Field(default=False, description="the output projection reads the embedding's weights")

    @field_validator("scales")
    @classmethod
    def scales_are_nested(cls, scales: tuple[int, ...]) -> tuple[int, ...]:
        if scales[0] != 1 or any(coarse <= fine or coarse % fine for fine, coarse in pairwise(scales)):
            raise ValueError(f"{list(scales)} must be 1, then each a larger multiple of the one before")
        return scales

    @property
    def ratios(self) -> tuple[int, ...]:
        """Positions of each scale that make one of the next coarser scale."""
        return tuple(coarse // fine for fine, coarse in pairwise(self.scales))

    def downsampling_parameters(self, factor: int) -> int:
        """Weights of one down-sampling by `factor`."""
        groups = {"average": 0, "linear": 1, "convolution": self.kernel_groups}[self.downsampling]
        return groups * factor * self.hidden_dim**2 + self.hidden_dim if groups else 0
