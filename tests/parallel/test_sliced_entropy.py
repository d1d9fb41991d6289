"""Entropies of sliced logits are those of whole ones, the same on every rank."""

import pytest
import torch
import torch.distributed as dist

from hierlm.nn.resampling.boundaries import entropies
from hierlm.nn.resampling.dynamic_pooling import BoundaryLoss
from hierlm.parallel.tensor import logits_are_sliced
from tests.distributed.spawn import run_ranks

VOCAB, PADDED = 97, 98


def logits(dtype: torch.dtype) -> torch.Tensor:
    """Padding as a sliced head leaves it: the lowest number there is."""
    whole = 4 * torch.randn(2, 5, VOCAB, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.pad(whole.to(dtype), (0, PADDED - VOCAB), value=torch.finfo(dtype).min)


def of_slices() -> list[list[float]]:
    from hierlm.parallel.process import start_processes
    from hierlm.parallel.sliced_entropy import SlicedEntropies

    process = start_processes()
    assert dist.group.WORLD is not None
    sliced = SlicedEntropies(dist.group.WORLD)
    layer = BoundaryLoss()
    assert not logits_are_sliced({0: layer})
    layer.entropies = sliced
    assert logits_are_sliced({0: layer})
    types = (torch.float32, torch.bfloat16, torch.float64)
    return [sliced(logits(dtype).chunk(2, dim=-1)[process.rank]).flatten().tolist() for dtype in types]


@pytest.mark.distributed
def test_entropies_of_slices_are_those_of_the_whole() -> None:
    first, second = run_ranks(of_slices, 2)
    assert first == second
    for found, dtype in zip(first, (torch.float32, torch.bfloat16, torch.float64), strict=True):
        expected = entropies(logits(dtype)[..., :VOCAB]).flatten()
        torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=1e-7, atol=0)
