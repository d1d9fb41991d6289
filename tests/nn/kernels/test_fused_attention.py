"""On the meta device attention keeps what the kernels of a device keep, and torch's own function stays as it is."""

import pytest
import torch
import torch.nn.functional as F

from hierlm.nn.kernels.fused_attention import attend_fused
from hierlm.nn.kernels.target import standing_for
from hierlm.plan.live_bytes import LiveBytes

HEADS, LENGTH, WIDTH = 2, 64, 8
SCORES = HEADS * LENGTH * LENGTH * 4


def kept(target: str, *, device: str = "meta", learned: bool = False) -> int:
    """Bytes alive after the forward pass, without queries, keys, values and mask."""
    query = torch.zeros(1, HEADS, LENGTH, WIDTH, device=device, requires_grad=True)
    mask = torch.zeros(1, HEADS, LENGTH, LENGTH, device=device, requires_grad=True) if learned else None
    live = LiveBytes()
    live.ignore([query] if mask is None else [query, mask])
    with standing_for(target), live:
        output = attend_fused(query, query, query, mask=mask)
        assert output.requires_grad
        return live.now


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_no_scores_are_kept(target):
    assert kept(target) < SCORES / 4


def test_a_cpu_keeps_the_scores_of_a_learned_mask_and_a_gpu_does_not():
    assert kept("cpu", learned=True) >= SCORES
    assert kept("cuda", learned=True) < SCORES / 4


@pytest.mark.parametrize("learned", [False, True])
def test_what_is_said_of_the_cpu_is_what_it_does(learned):
    assert kept("cpu", learned=learned) == kept("cpu", learned=learned, device="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_heads_that_share_keys_get_gradients_of_their_shapes(target, dtype):
    query = torch.zeros(1, 3 * HEADS, LENGTH, WIDTH, device="meta", dtype=dtype, requires_grad=True)
    keys = torch.zeros(1, HEADS, LENGTH, WIDTH, device="meta", dtype=dtype, requires_grad=True)
    with standing_for(target):
        output = attend_fused(query, keys, keys, is_causal=True)
        output.sum().backward()
    assert query.grad is not None and keys.grad is not None
    assert (output.shape, query.grad.shape, keys.grad.shape) == (query.shape, query.shape, keys.shape)


def test_real_tensors_are_attended_with_by_torch_whatever_a_plan_stands_for():
    queries, keys = torch.randn(1, 3 * HEADS, LENGTH, WIDTH), torch.randn(1, HEADS, LENGTH, WIDTH)
    own = keys.repeat_interleave(3, dim=1)
    expected = F.scaled_dot_product_attention(queries, own, own, is_causal=True)
    with standing_for("cuda"):
        found = attend_fused(queries, keys, keys, is_causal=True)
    torch.testing.assert_close(found, expected)


def test_what_is_stood_for_ends_with_its_block():
    original, scores = F.scaled_dot_product_attention, kept("meta")
    with standing_for("cuda"):
        assert F.scaled_dot_product_attention is original
    assert kept("meta") == scores > SCORES
