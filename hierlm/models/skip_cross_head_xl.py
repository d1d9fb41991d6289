"""Skip Cross-head Transformer-XL: training skips whole layers, whose memory is retained, and permutes heads.

"Memory-efficient Stochastic methods for Memory-based Transformers", arXiv 2311.08123, by its released code (only the
first page of the paper was at hand).
Ours = the code's: skip_probability * l / num_layers = the skip ramp of phase 1 (0.5 l / L), cross_head_probability =
ch_prob, memory_length = mem_len. Phase 1 is `layer_skip: ramp`, phase 2 `layer_skip: off`; the weights are the same.

Departures:
- each memory slot knows its token, so a retained memory has its true distance and an evaluation changes nothing; the
  code counts executed layers, and its gap drifts.
- the relative shift is applied; the code leaves it out, which `relative_shift: false` reproduces.
- empty memory slots are masked; the code attends to zeros.
- a skipped layer's weights get gradients of zero, not none: the same update at every ZeRO stage.
- draws are keyed by (seed, layer, step), not broadcast from one rank.
- initial weights are Transformer-XL's N(0, 0.02); the code keeps its framework's defaults (u, v and the projections of
  frequency bins: N(0, 1)).
- the embedding is scaled by sqrt(D) with and without frequency bins; the code scales that of frequency bins alone.
- pre_norm ends in a last LayerNorm; the code's pre-norm has none.
- embedding_dropout acts on embedding, waves and what the output reads; the code's emb_dropout, which its scripts set to
  0, on the last alone.
"""

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from hierlm.models import transformer_xl
from hierlm.models.config import train_switch

if TYPE_CHECKING:
    from hierlm.nn.layer import LayerSpec

PAPER = "2311.08123, 2023"

TENSOR_PLAN = transformer_xl.TENSOR_PLAN
shared_weights = transformer_xl.shared_weights
num_parameters = transformer_xl.num_parameters


class Config(transformer_xl.Config):
    """Transformer-XL and what its training does at random."""

    layer_skip: Literal["ramp", "uniform", "off"] = train_switch("off", description="ramp in phase 1, off in phase 2")
    skip_probability: float = train_switch(0.5, ge=0, le=1, description="end of the ramp, or of every layer if uniform")
    cross_head_probability: float = train_switch(0.1, ge=0, le=1, description="of a head permutation, per layer")
    relative_shift: bool = Field(default=True, description="false: distances from the segment's last token")
    tie_embeddings: bool = Field(default=False, description="the output reads the embedding's tables")

    @model_validator(mode="after")
    def uniform_skips_less_than_always(self) -> "Config":
        if self.layer_skip == "uniform" and self.skip_probability == 1:
            raise ValueError("skip_probability 1 with layer_skip uniform would skip every layer; give less than 1")
        return self


def list_length(config: Config) -> int:
    """How many layers `layers` lists: the most pipeline stages there can be."""
    return transformer_xl.list_length(config)


def layers(config: Config) -> "list[LayerSpec]":
    """Embed, CrossHeadBlock x num_layers, Head."""
    from hierlm.nn.memory.cross_head_block import CrossHeadBlock, Place

    arguments = {**transformer_xl.block_arguments(config), "relative_shift": config.relative_shift}
    places = (Place(layer, config.num_layers, config.num_heads) for layer in range(config.num_layers))
    return transformer_xl.layer_list(config, [partial(CrossHeadBlock, place=place, **arguments) for place in places])


def refusals(config: Config) -> dict[str, str]:
    """Parallel fields that must be 1 for this config, each with the reason."""
    if config.cross_head_probability > 0:
        return {"tensor_parallel_degree": "model.cross_head_probability permutes heads of all ranks; set it to 0"}
    return transformer_xl.refusals(config)
