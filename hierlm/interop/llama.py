"""Llama (2302.13971; grouped queries as in Llama 2, 2307.09288): names and fields of transformers' LlamaForCausalLM.

Its rotation turns the pairs (j, j + K/2) of a head, as ours does, so that no rows are moved.
"""

from typing import Any

from hierlm.interop.family import PLAIN, Field, Tensors

ARCH = "transformer"
PREFIXES = ("",)
TENSORS = (
    Tensors("model.embed_tokens.weight", ("layers.0.tokens.weight",)),
    Tensors("model.layers.{layer}.input_layernorm.weight", ("layers.{block}.attention_norm.weight",)),
    Tensors("model.layers.{layer}.self_attn.q_proj.weight", ("layers.{block}.attention.query.weight",)),
    Tensors("model.layers.{layer}.self_attn.k_proj.weight", ("layers.{block}.attention.key.weight",)),
    Tensors("model.layers.{layer}.self_attn.v_proj.weight", ("layers.{block}.attention.value.weight",)),
    Tensors("model.layers.{layer}.self_attn.o_proj.weight", ("layers.{block}.attention.output.weight",)),
    Tensors("model.layers.{layer}.post_attention_layernorm.weight", ("layers.{block}.feed_forward_norm.weight",)),
    Tensors("model.layers.{layer}.mlp.gate_proj.weight", ("layers.{block}.feed_forward.gate.weight",)),
    Tensors("model.layers.{layer}.mlp.up_proj.weight", ("layers.{block}.feed_forward.expand.weight",)),
    Tensors("model.layers.{layer}.mlp.down_proj.weight", ("layers.{block}.feed_forward.contract.weight",)),
    Tensors("model.norm.weight", ("layers.{norm}.norm.weight",)),
    Tensors("lm_head.weight", ("layers.{head}.projection.weight",)),
)
LEFT = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)

FIELDS = {
    "vocab_size": Field("vocab_size"),
    "hidden_size": Field("hidden_dim"),
    "intermediate_size": Field("ffn_dim"),
    "num_hidden_layers": Field("num_layers"),
    "num_attention_heads": Field("num_heads"),
    "num_key_value_heads": Field("num_kv_heads", default=None),
    "rms_norm_eps": Field("norm_epsilon", default=1e-6),
    "rope_theta": Field("rotary_base", default=10_000.0),
    "rope_parameters": Field("rotation", default=None),
    "head_dim": Field("head_dim", default=None),
    "tie_word_embeddings": Field("tie_embeddings", default=False),
}
FIXED = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_scaling": (None,),
    "pretraining_tp": (1,),
}
SILENT = ("max_position_embeddings", "attention_dropout")
IMPLIED = {**PLAIN, "norm": "rms", "feed_forward": "swiglu", "biases": False, "positions": "rotary"}


def completed(part: dict[str, Any]) -> dict[str, Any]:
    """With what follows from several fields; UserError for what ours cannot say."""
    from hierlm.errors import UserError

    rotation, head_dim = part.pop("rotation"), part.pop("head_dim")
    if isinstance(rotation, dict):
        if rotation.get("rope_type", "default") != "default":
            raise UserError(
                f"config.json: rope_parameters.rope_type: given {rotation['rope_type']!a}, allowed: 'default'"
            )
        part["rotary_base"] = rotation.get("rope_theta", part["rotary_base"])
    if head_dim not in (None, part["hidden_dim"] // part["num_heads"]):
        raise UserError(f"config.json: head_dim: given {head_dim}, allowed: hidden_size / num_attention_heads")
    return {**part, "num_kv_heads": part["num_kv_heads"] or part["num_heads"]}
