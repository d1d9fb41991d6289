"""Every architecture so deep that each of four pipeline stages holds three layers, where it can be cut so."""

from dataclasses import dataclass

from hierlm.models.assembly import layer_specs
from hierlm.models.config import ModelConfig
from tests.distributed.runs import RELATIVE

WIDTHS = ("model.vocab_size=97", "model.hidden_dim=16")  # odd: every tensor-parallel degree has to pad
HEADS = ("model.num_heads=4", "model.ffn_dim=24")
DEEP = "model.num_layers=12"


@dataclass(frozen=True)
class DeepModel:
    """The tiny config of an architecture with other fields."""

    arch: str
    overrides: tuple[str, ...]
    most_stages: int = 4
    is_sliced: bool = True  # under tensor parallelism
    moments_within: float = RELATIVE

    @property
    def words(self) -> tuple[str, ...]:
        heads = () if self.arch in ("lstm", "hm_lstm") else HEADS
        return (*WIDTHS, *heads, *self.overrides)


U_NET = "model.hierarchy='3@1 2@2 2@4 2@2 3@1'"
XL = (DEEP, "model.memory_length=30")
SKIPPING = (*XL, "model.layer_skip=uniform", "model.skip_probability=0.3")
SCALES = ("model.scales=[1,2,4]", "model.layers_per_scale=[4,4,4]")
POOLING = ("model.pre_layers=4", "model.valley_layers=4", "model.post_layers=4", "model.separators=[3,5,7,11,13,17,19]")
LMU = (DEEP, "model.memory_order=12", "model.window_length=32", "model.carry_memory=true")
RMT = (DEEP, "model.bptt_depth=1")

TIED, UNTIED = "model.tie_embeddings=true", "model.tie_embeddings=false"
SHARED, UNSHARED = "model.share_position_biases=true", "model.share_position_biases=false"

MODELS = {
    "transformer": DeepModel("transformer", (DEEP,)),
    "transformer-tied": DeepModel("transformer", (DEEP, TIED)),
    "transformer-sandwich": DeepModel("transformer", (DEEP, TIED, "model.sandwich=3", "model.positions=relative")),
    "hourglass": DeepModel("hourglass", (U_NET,)),
    "hourglass-relative": DeepModel("hourglass", (U_NET, "model.positions=relative", "model.upsampling=linear")),
    "top_down": DeepModel("top_down", (*SCALES, UNTIED)),
    "top_down-tied": DeepModel("top_down", (*SCALES, TIED)),
    "bottom_up": DeepModel("bottom_up", (*SCALES, UNTIED)),
    "bottom_up-tied": DeepModel("bottom_up", (*SCALES, TIED)),
    "retina": DeepModel("retina", (DEEP, UNTIED)),
    "retina-tied": DeepModel("retina", (DEEP, TIED)),
    "dynamic_pooling": DeepModel("dynamic_pooling", (*POOLING, "model.max_groups=16")),
    "dynamic_pooling-gumbel": DeepModel("dynamic_pooling", (*POOLING, "model.boundaries=gumbel"), most_stages=1),
    "transformer_xl": DeepModel("transformer_xl", (*XL, UNTIED, UNSHARED)),
    "transformer_xl-tied": DeepModel("transformer_xl", (*XL, TIED, SHARED)),
    "skip_cross_head_xl": DeepModel("skip_cross_head_xl", (*SKIPPING, UNTIED, UNSHARED), is_sliced=False),
    "skip_cross_head_xl-tied": DeepModel(
        "skip_cross_head_xl", (*SKIPPING, TIED, SHARED, "model.cross_head_probability=0")
    ),
    "lmu": DeepModel("lmu", (*LMU, UNTIED)),
    "lmu-tied": DeepModel("lmu", (*LMU, TIED, "model.global_attention=true", "model.carry_memory=false")),
    "lstm": DeepModel("lstm", (DEEP,)),
    # the gradient of its cells is what little is left of terms that cancel: rounding has a larger share of it
    "hm_lstm": DeepModel("hm_lstm", ("model.embedding_dim=8", "model.output_dim=16"), moments_within=1e-4),
    "recurrent_memory_transformer": DeepModel("recurrent_memory_transformer", (*RMT, UNTIED, UNSHARED), most_stages=2),
    "recurrent_memory_transformer-tied": DeepModel("recurrent_memory_transformer", (*RMT, TIED, SHARED), most_stages=2),
}


def even_cut(config: ModelConfig, *, num_stages: int) -> list[int]:
    """First layers of the later stages, so that each has as many of the kind that the model has most of."""
    kinds = kinds_of(config)
    kind = max(kinds, key=kinds.count)
    places = [index for index, name in enumerate(kinds) if name == kind]
    if len(places) < num_stages:
        return list(range(1, num_stages))
    return [places[len(places) * stage // num_stages] for stage in range(1, num_stages)]


def kinds_of(config: ModelConfig) -> list[str]:
    """The class of every layer."""
    return [getattr(spec, "func", spec).__name__ for spec in layer_specs(config)]
