"""On the meta device attention keeps what the kernels of a device keep."""

import pytest
import torch
import torch.nn.functional as F

from hierlm.plan.attention_kernel import fused_attention
from hierlm.plan.live_bytes import LiveBytes

HEADS, LENGTH, WIDTH = 2, 64, 8
SCORES = HEADS * LENGTH * LENGTH * 4


def kept(*, on_gpu: bool, device: str = "meta", learned: bool = False, dropout: float = 0.0) -> int:
    """Bytes alive after the forward pass, without queries, keys, values and mask."""
    query = torch.zeros(1, HEADS, LENGTH, WIDTH, device=device, requires_grad=True)
    mask = torch.zeros(1, HEADS, LENGTH, LENGTH, device=device, requires_grad=True) if learned else None
    live = LiveBytes()
    live.ignore([query] if mask is None else [query, mask])
    with fused_attention(on_gpu=on_gpu), live:
        output = F.scaled_dot_product_attention(query, query, query, attn_mask=mask, dropout_p=dropout)
        assert output.requires_grad
        return live.now


@pytest.mark.parametrize("on_gpu", [False, True])
def test_no_scores_are_kept(on_gpu):
    assert kept(on_gpu=on_gpu) < SCORES / 4


def test_a_cpu_keeps_the_scores_of_a_learned_mask_and_of_dropout_and_a_gpu_does_not():
    assert kept(on_gpu=False, learned=True) >= SCORES
    assert kept(on_gpu=False, dropout=0.1) >= SCORES
    assert kept(on_gpu=True, learned=True) < SCORES / 4
    assert kept(on_gpu=True, dropout=0.1) < SCORES / 4


@pytest.mark.parametrize("learned", [False, True])
def test_what_is_said_of_the_cpu_is_what_it_does(learned):
    assert kept(on_gpu=False, learned=learned) == kept(on_gpu=False, learned=learned, device="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_heads_that_share_keys_get_gradients_of_their_shapes(on_gpu, dtype):
    query = torch.zeros(1, 3 * HEADS, LENGTH, WIDTH, device="meta", dtype=dtype, requires_grad=True)
    keys = torch.zeros(1, HEADS, LENGTH, WIDTH, device="meta", dtype=dtype, requires_grad=True)
    with fused_attention(on_gpu=on_gpu):
        output = F.scaled_dot_product_attention(query, keys, keys, is_causal=True, enable_gqa=True)
        output.sum().backward()
    assert query.grad is not None and keys.grad is not None
    assert (output.shape, query.grad.shape, keys.grad.shape) == (query.shape, query.shape, keys.shape)


def test_attention_is_as_before_afterwards():
    original = F.scaled_dot_product_attention
    with fused_attention(on_gpu=True):
        assert F.scaled_dot_product_attention is not original
    assert F.scaled_dot_product_attention is original
