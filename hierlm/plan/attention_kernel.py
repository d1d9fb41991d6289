"""Attention on the meta device as a device computes it: with a fused kernel, without the scores of all pairs.

Left alone, the meta device lays attention out as products that keep every score.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hierlm.nn import draws
from hierlm.nn.attention import relative_attention
from hierlm.nn.attention.visibility import with_keys_of_their_own
from hierlm.nn.kernels import prefix_attention

aten = torch.ops.aten


@contextmanager
def fused_attention(*, on_gpu: bool) -> Iterator[None]:
    """Inside, attention on meta tensors takes the kernel of a GPU or of a CPU, and dropout keeps what it keeps there.

    A change of the function itself, because a mode would not reach the recomputation inside a backward pass.
    """
    original, ours = F.scaled_dot_product_attention, (relative_attention.TILED_DEVICES, prefix_attention.DEVICES)
    number_devices = draws.NUMBER_DEVICES
    F.scaled_dot_product_attention = partial(_attend, original, on_gpu)
    relative_attention.TILED_DEVICES = prefix_attention.DEVICES = frozenset(() if on_gpu else ("cpu", "meta"))
    draws.NUMBER_DEVICES = frozenset(("cpu",) if on_gpu else ("cpu", "meta"))
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original
        relative_attention.TILED_DEVICES, prefix_attention.DEVICES = ours
        draws.NUMBER_DEVICES = number_devices


def _attend(  # noqa: PLR0917 - torch's own signature
    original: Callable[..., Tensor],
    on_gpu: bool,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if not query.is_meta:
        return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    mask = _additive(attn_mask, like=query)
    shares_keys = query.shape[-3] != key.shape[-3]
    if on_gpu and shares_keys and query.dtype != torch.float32:
        assert enable_gqa and mask is None
        output: Any = aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)
    elif on_gpu:  # the memory-efficient kernel: it keeps what the flash kernel keeps, and takes any mask
        bias = None if mask is None else mask.expand(*query.shape[:-1], key.shape[-2])
        key, value = with_keys_of_their_own(query, key, value) if shares_keys else (key, value)
        output = aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
        )
    elif dropout_p > 0 or (mask is not None and mask.requires_grad):  # what the CPU's flash kernel refuses
        return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    else:
        output = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=mask, scale=scale
        )
    return output[0]


def _additive(mask: Tensor | None, *, like: Tensor) -> Tensor | None:
    """A boolean mask as what is added to the scores: the kernels read nothing else."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask, float("-inf"))
