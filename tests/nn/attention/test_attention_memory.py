"""Attention over a long row never holds a matrix of all pairs of positions, forwards and backwards."""

import pytest
import torch

from hierlm.nn.attention.retina import RetinaBlock, RetinaView
from hierlm.nn.attention.visibility import Causal, GroupsSoFar, OnePerGroup
from hierlm.nn.shape import BlockShape
from hierlm.nn.stream import Stream
from tests.benchmarks.memory import peak_tensor_bytes

LENGTH, HEADS, HEAD_DIM = 4096, 2, 16
FLOATS = 4 * LENGTH * LENGTH  # bytes of one matrix of pairs
SHAPE = BlockShape(
    hidden_dim=HEADS * HEAD_DIM,
    num_heads=HEADS,
    ffn_dim=HEAD_DIM,
    activation="gelu",
    positions="rotary",
    dropout=0.0,
    residual_scale=1.0,
)


def heads(length):
    return torch.randn(1, HEADS, length, HEAD_DIM, requires_grad=True)


@pytest.mark.parametrize(
    ("rule", "num_queries", "num_keys"),
    [
        (Causal(), LENGTH, LENGTH),
        (Causal(64), LENGTH, LENGTH),
        (Causal(1000), LENGTH, LENGTH),
        (GroupsSoFar(4, 0), LENGTH, LENGTH // 4),
    ],
)
def test_no_rule_needs_memory_for_all_pairs(rule, num_queries, num_keys):
    queries, keys, values = heads(num_queries), heads(num_keys), heads(num_keys)
    peak = peak_tensor_bytes(lambda: rule.attend(queries, keys, values).sum().backward())
    assert peak < FLOATS / 4  # not even a mask of one byte a pair


def test_pooling_groups_needs_one_mask_for_all_heads_and_rows():
    factor, rows = 4, 8
    queries, keys, values = (heads(n).detach().repeat(rows, 1, 1, 1) for n in (LENGTH // factor, LENGTH, LENGTH))
    peak = peak_tensor_bytes(lambda: OnePerGroup(factor).attend(queries, keys, values))
    vectors = queries.nbytes + keys.nbytes + values.nbytes
    assert peak < vectors + 1.5 * FLOATS / factor  # the mask as bytes and as floats, once


@pytest.mark.parametrize(("scales", "windows"), [((1, 4, 16), (16, 16)), ((1, 16), (64,)), ((1, 4), (16,))])
def test_the_retina_gathers_a_few_times_its_tokens(scales, windows):
    view = RetinaView(scales, windows)
    block = RetinaBlock(shape=SHAPE, view=view, downsampling="average", kernel_groups=1)
    x = torch.randn(1, LENGTH, SHAPE.hidden_dim, requires_grad=True)
    peak = peak_tensor_bytes(lambda: block(Stream((x,)))[0].hidden.sum().backward())
    assert peak < 40 * x.nbytes + 2 * FLOATS / scales[-1] * 1.5
