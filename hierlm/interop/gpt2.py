"""GPT-2 (Radford et al., 2019): names and fields of transformers' GPT2LMHeadModel.

Its projections are kept as [in, out], queries, keys and values in one of them. Its learned positions have no parameter
here yet: a model here that begins with its weights says so by `strict: false`, and learns its own use of positions.
"""

from typing import Any

from hierlm.interop.family import PLAIN, Field, Tensors

ARCH = "transformer"
PREFIXES = ("transformer.", "")


def _projection(theirs: str, *ours: str) -> tuple[Tensors, Tensors]:
    weights, biases = (tuple(f"layers.{{block}}.{name}.{kind}" for name in ours) for kind in ("weight", "bias"))
    return (
        Tensors(f"h.{{layer}}.{theirs}.weight", weights, is_transposed=True),
        Tensors(f"h.{{layer}}.{theirs}.bias", biases),
    )


def _norm(theirs: str, ours: str) -> tuple[Tensors, Tensors]:
    return Tensors(f"{theirs}.weight", (f"{ours}.weight",)), Tensors(f"{theirs}.bias", (f"{ours}.bias",))


TENSORS = (
    Tensors("wte.weight", ("layers.0.tokens.weight",)),
    *_norm("h.{layer}.ln_1", "layers.{block}.attention_norm"),
    *_projection("attn.c_attn", "attention.query", "attention.key", "attention.value"),
    *_projection("attn.c_proj", "attention.output"),
    *_norm("h.{layer}.ln_2", "layers.{block}.feed_forward_norm"),
    *_projection("mlp.c_fc", "feed_forward.expand"),
    *_projection("mlp.c_proj", "feed_forward.contract"),
    *_norm("ln_f", "layers.{norm}.norm"),
)
LEFT = (r"h\.\d+\.attn\.(bias|masked_bias)", r"lm_head\.weight")
"""The triangle of the causal mask, and the head, which is the embedding."""

FIELDS = {
    "vocab_size": Field("vocab_size"),
    "n_embd": Field("hidden_dim"),
    "n_inner": Field("ffn_dim", default=None),
    "n_layer": Field("num_layers"),
    "n_head": Field("num_heads"),
    "layer_norm_epsilon": Field("norm_epsilon", default=1e-5),
}
FIXED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "tie_word_embeddings": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False,),
    "add_cross_attention": (False,),
}
SILENT = (
    *("n_positions", "n_ctx", "attn_pdrop", "embd_pdrop", "resid_pdrop"),
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
)
IMPLIED = {
    **PLAIN,
    "norm": "layer",
    "feed_forward": "gelu_tanh",
    "biases": True,
    "positions": "learned",
    "tie_embeddings": True,
}


def completed(part: dict[str, Any]) -> dict[str, Any]:
    """With what follows from several fields."""
    return {**part, "ffn_dim": part["ffn_dim"] or 4 * part["hidden_dim"]}
