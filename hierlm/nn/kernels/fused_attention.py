"""torch's attention without the scores of all pairs, and the kernel of it that a plan's device would take.

Left alone, tensors without data are attended with as products that keep every score, on whatever device they stand for.

Shapes: B batch, H heads, Q queries, S keys, K head_dim; n query heads may share the keys of one.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hierlm.nn.kernels.target import device_type

aten = torch.ops.aten


def attend_fused(
    queries: Tensor, keys: Tensor, values: Tensor, *, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """softmax(queries keys' / sqrt K + mask) values: [B, H n, Q, K] of keys and values [B, H, S, K].

    `mask` broadcasts to [B, H n, Q, S]: bool, True = visible, or numbers that are added to the scores.
    """
    shares_keys = queries.shape[-3] != keys.shape[-3]
    if shares_keys and device_type(keys) == "cuda" and (keys.dtype == torch.float32 or mask is not None):
        # no fused kernel there shares keys in fp32, or under a mask
        keys, values = with_keys_of_their_own(queries, keys, values)
        shares_keys = False
    if queries.is_meta:
        return _without_data(queries, keys, values, mask=mask, is_causal=is_causal, shares_keys=shares_keys)
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=is_causal, enable_gqa=shares_keys
    )


def _without_data(
    queries: Tensor, keys: Tensor, values: Tensor, *, mask: Tensor | None, is_causal: bool, shares_keys: bool
) -> Tensor:
    target = device_type(queries)
    if target == "cuda" and shares_keys:
        assert mask is None
        output: Any = aten._scaled_dot_product_flash_attention(queries, keys, values, 0.0, is_causal)
        return output[0]
    if target == "cuda":  # the memory-efficient kernel: it keeps what the flash kernel keeps, and takes any mask
        bias = None if mask is None else _additive(mask, like=queries).expand(*queries.shape[:-1], keys.shape[-2])
        output = aten._scaled_dot_product_efficient_attention(
            queries, keys, values, bias, torch.is_grad_enabled(), 0.0, is_causal
        )
        return output[0]
    learns = mask is not None and mask.requires_grad  # which the kernel of a CPU refuses
    if target == "cpu" and not learns:
        bias = None if mask is None else _additive(mask, like=queries)
        output = aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, values, 0.0, is_causal, attn_mask=bias)
        return output[0]
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=is_causal, enable_gqa=shares_keys
    )


def _additive(mask: Tensor, *, like: Tensor) -> Tensor:
    """A boolean mask as what is added to the scores: the kernels read nothing else."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask, float("-inf"))


def with_keys_of_their_own(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values repeated for the heads of the queries, n neighbours each."""
    repeats = queries.shape[-3] // keys.shape[-3]
    if repeats == 1:
        return keys, values
    return keys.repeat_interleave(repeats, dim=-3), values.repeat_interleave(repeats, dim=-3)
