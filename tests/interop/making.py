"""Small models under the names of a family, written out by hand: what the adapters are held against."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]
V, D, F, H, L = 50, 8, 12, 2, 3

LLAMA_CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": F,
    "num_hidden_layers": L,
    "num_attention_heads": H,
    "num_key_value_heads": 1,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "use_cache": True,
    "head_dim": D // H,
}
GPT2_CONFIG = {
    "model_type": "gpt2",
    "vocab_size": V,
    "n_embd": D,
    "n_layer": L,
    "n_head": H,
    "n_inner": F,
    "n_positions": 32,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "attn_pdrop": 0.1,
    "task_specific_params": {"text-generation": {"do_sample": True}},
}


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape)


def llama() -> tuple[Weights, Weights]:
    """(ours, theirs) of one model."""
    ours = {"layers.0.tokens.weight": drawn(V, D), "layers.4.norm.weight": drawn(D)}
    ours["layers.5.projection.weight"] = drawn(V, D)
    theirs = {"model.embed_tokens.weight": ours["layers.0.tokens.weight"]}
    theirs["model.norm.weight"] = ours["layers.4.norm.weight"]
    theirs["lm_head.weight"] = ours["layers.5.projection.weight"]
    kinds = {
        "attention_norm": ("input_layernorm", (D,)),
        "feed_forward_norm": ("post_attention_layernorm", (D,)),
        "attention.query": ("self_attn.q_proj", (D, D)),
        "attention.key": ("self_attn.k_proj", (D // H, D)),
        "attention.value": ("self_attn.v_proj", (D // H, D)),
        "attention.output": ("self_attn.o_proj", (D, D)),
        "feed_forward.gate": ("mlp.gate_proj", (F, D)),
        "feed_forward.expand": ("mlp.up_proj", (F, D)),
        "feed_forward.contract": ("mlp.down_proj", (D, F)),
    }
    for layer in range(L):
        for name, (their_name, shape) in kinds.items():
            tensor = drawn(*shape)
            ours[f"layers.{layer + 1}.{name}.weight"] = tensor
            theirs[f"model.layers.{layer}.{their_name}.weight"] = tensor
        theirs[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = drawn(2)
    return ours, theirs


def gpt2(prefix: str = "transformer.") -> tuple[Weights, Weights]:
    """(ours, theirs) of one model; its positions have no name of ours."""
    ours, theirs = {"layers.0.tokens.weight": drawn(V, D)}, {f"{prefix}wpe.weight": drawn(32, D)}
    theirs[f"{prefix}wte.weight"] = theirs["lm_head.weight"] = ours["layers.0.tokens.weight"]
    linear = {"query": (D, D), "key": (D, D), "value": (D, D), "output": (D, D)}
    for layer in range(L):
        here, there = f"layers.{layer + 1}", f"{prefix}h.{layer}"
        for norm, name in (("attention_norm", "ln_1"), ("feed_forward_norm", "ln_2")):
            _both(ours, theirs, f"{here}.{norm}", f"{there}.{name}", drawn(D), drawn(D))
        for name, shape in linear.items():
            ours[f"{here}.attention.{name}.weight"] = drawn(*shape)
            ours[f"{here}.attention.{name}.bias"] = drawn(shape[0])
        of = [f"{here}.attention.{name}" for name in ("query", "key", "value")]
        theirs[f"{there}.attn.c_attn.weight"] = torch.cat([ours[f"{name}.weight"].t() for name in of], dim=1)
        theirs[f"{there}.attn.c_attn.bias"] = torch.cat([ours[f"{name}.bias"] for name in of])
        theirs[f"{there}.attn.c_proj.weight"] = ours[f"{here}.attention.output.weight"].t()
        theirs[f"{there}.attn.c_proj.bias"] = ours[f"{here}.attention.output.bias"]
        for name, their_name, shape in (("expand", "c_fc", (F, D)), ("contract", "c_proj", (D, F))):
            weight, bias = drawn(*shape), drawn(shape[0])
            ours |= {f"{here}.feed_forward.{name}.weight": weight, f"{here}.feed_forward.{name}.bias": bias}
            theirs |= {f"{there}.mlp.{their_name}.weight": weight.t(), f"{there}.mlp.{their_name}.bias": bias}
        theirs[f"{there}.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
    _both(ours, theirs, f"layers.{L + 1}.norm", f"{prefix}ln_f", drawn(D), drawn(D))
    return ours, theirs


def _both(ours: Weights, theirs: Weights, name: str, their_name: str, weight: Tensor, bias: Tensor) -> None:
    ours |= {f"{name}.weight": weight, f"{name}.bias": bias}
    theirs |= {f"{their_name}.weight": weight, f"{their_name}.bias": bias}


def folder_of(folder: Path, theirs: Weights, config: dict[str, Any]) -> Path:
    """As transformers leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in theirs.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder
