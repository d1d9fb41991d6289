"""Nats per token, whole and sliced over the vocabulary."""

import pytest
import torch
import torch.nn.functional as F

from hierlm.parallel.loss import token_losses
from tests.distributed.spawn import run_ranks

VOCAB = 7


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(2, 4, VOCAB, generator=generator)
    targets = torch.randint(0, VOCAB, (2, 4), generator=generator)
    targets[1, 3] = -1
    return logits, targets


def test_padding_costs_nothing_and_the_rest_is_cross_entropy():
    logits, targets = batch()
    nats = token_losses(logits, targets)
    assert nats[1, 3] == 0
    real = targets >= 0
    assert torch.allclose(nats[real], F.cross_entropy(logits[real], targets[real], reduction="none"))


def test_low_precision_logits_are_summed_in_fp32():
    logits, targets = batch()
    nats = token_losses(logits.to(torch.bfloat16), targets)
    assert nats.dtype == torch.float32
    assert torch.allclose(nats, token_losses(logits.to(torch.bfloat16).float(), targets))


def sliced() -> tuple[list, list]:
    """(nats, gradient of this rank's slice), as lists, with the vocabulary padded to 8 and cut in two."""
    from hierlm.parallel.degrees import Degrees
    from hierlm.parallel.groups import start_groups
    from hierlm.parallel.process import start_processes

    start_processes()
    groups = start_groups(Degrees(tensor=2))
    logits, targets = batch()
    padded = F.pad(logits, (0, 1), value=torch.finfo(logits.dtype).min)
    mine = padded.chunk(2, dim=-1)[groups.tp_rank].clone().requires_grad_()
    nats = token_losses(mine * 1.0, targets, are_sliced=True)
    nats.sum().backward()
    return nats.tolist(), mine.grad.tolist()


@pytest.mark.distributed
def test_sliced_logits_give_the_same_nats_and_gradients():
    logits, targets = batch()
    logits.requires_grad_()
    expected = token_losses(logits, targets)
    expected.sum().backward()
    found = run_ranks(sliced, 2)
    for nats, _ in found:
        torch.testing.assert_close(torch.tensor(nats), expected.detach(), rtol=1e-6, atol=1e-6)
    gradient = torch.cat([torch.tensor(part) for _, part in found], dim=-1)
    torch.testing.assert_close(gradient[..., :VOCAB], logits.grad, rtol=1e-5, atol=1e-7)
    assert not gradient[..., VOCAB:].any()
