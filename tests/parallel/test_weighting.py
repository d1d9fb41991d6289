"""A step's loss by parts: whatever the micro-batches are, the mean of their parts is sum(w nats) / sum(w)."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from hierlm.nn.inputs import with_tokens
from hierlm.parallel.absent_peers import without_peers
from hierlm.parallel.degrees import Degrees
from hierlm.parallel.micro_batch import MicroBatch
from hierlm.parallel.weighting import part_of_loss, scale_of


def batch(seed: int, *, rows: int = 12) -> tuple[torch.Tensor, MicroBatch]:
    generator = torch.Generator().manual_seed(seed)
    nats, weights = torch.rand(rows, 5, generator=generator), torch.rand(rows, 5, generator=generator)
    weights[weights < 0.8] = 0.0
    tokens = torch.zeros(rows, 5, dtype=torch.int64)
    return nats, MicroBatch(with_tokens(tokens), tokens, weights)


@given(seed=st.integers(0, 100), size=st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_the_mean_of_parts_is_the_weighted_mean(seed: int, size: int) -> None:
    nats, whole = batch(seed)
    assert whole.weights is not None
    with without_peers(Degrees()) as groups:
        parts = whole.split(size)
        scale = scale_of(parts, groups=groups)
    found = [part_of_loss(some, part.weights, scale) for some, part in zip(nats.split(size), parts, strict=True)]
    expected = (nats * whole.weights).sum() / whole.weights.sum()
    torch.testing.assert_close(torch.stack(found).mean(), expected)


def test_where_nothing_counts_the_loss_is_zero_and_where_all_is_alike_it_is_the_mean() -> None:
    nats, whole = batch(0)
    with without_peers(Degrees()) as groups:
        nothing = whole._replace(weights=torch.zeros_like(nats))
        assert part_of_loss(nats, nothing.weights, scale_of([nothing], groups=groups)) == 0
        alike = whole._replace(weights=None)
        assert scale_of([alike], groups=groups) is None
    assert part_of_loss(nats, None, None) == nats.mean()
