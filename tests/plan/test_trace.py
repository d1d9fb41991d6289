"""What `hierlm.parallel` does is what the plan sees: nothing of it is written a second time."""

from functools import partial

import pytest
import torch
import torch.distributed as dist

from hierlm.parallel import loss
from hierlm.parallel.sequence import TokenShares
from hierlm.parallel.tensor import SlicedRow
from hierlm.plan.footprint import Profile
from hierlm.plan.layer_memory import profile
from tests.plan.making import setting

ROWS, TOKENS, WIDTH = 2, 48, 64
WHOLE = ROWS * TOKENS * WIDTH * 4


def seen(**changes: object) -> Profile:
    return profile(setting("transformer", tp_degree=2, **changes))


def test_a_slice_that_sums_twice_is_seen_to(monkeypatch):
    before, sums_once = seen(), SlicedRow.forward

    def forward(self: SlicedRow, x: torch.Tensor) -> torch.Tensor:
        total = sums_once(self, x)
        dist.all_reduce(total.detach(), group=self.tp_group)
        return total

    monkeypatch.setattr(SlicedRow, "forward", forward)
    for once, twice in list(zip(before.traffic, seen().traffic, strict=True))[1:-2]:
        assert twice.sent_forward == 2 * once.sent_forward > 0
        assert twice.sent_backward == once.sent_backward


def test_a_slice_that_keeps_what_it_sums_is_seen_to(monkeypatch):
    before, keeps_nothing = seen(), SlicedRow.forward
    monkeypatch.setattr(SlicedRow, "forward", lambda self, x: torch.exp(keeps_nothing(self, x)))  # keeps its result
    for less, more in list(zip(before.layers, seen().layers, strict=True))[1:-2]:
        assert more.kept - less.kept == pytest.approx(2 * WHOLE, rel=0.01)  # of attention and feed-forward


def test_shares_that_are_gathered_once_more_are_seen_to(monkeypatch):
    shared = partial(seen, sequence_parallel=True)
    before, gather = shared(), TokenShares.all_of

    def all_of(self: TokenShares, share: torch.Tensor, whole: tuple[int, int]) -> torch.Tensor:
        gather(self, share, whole)
        return gather(self, share, whole)

    monkeypatch.setattr(TokenShares, "all_of", all_of)
    for once, twice in list(zip(before.traffic, shared().traffic, strict=True))[1:-2]:
        assert twice.sent_forward - once.sent_forward >= WHOLE  # two gathers of half a sum each


def test_a_loss_that_copies_its_logits_is_seen_to(monkeypatch):
    before, nats_of = seen(), loss.token_losses
    monkeypatch.setattr(loss, "token_losses", lambda logits, *of, **how: nats_of(logits + 0.0, *of, **how))
    assert seen().loss_peak - before.loss_peak >= before.logits / 2
