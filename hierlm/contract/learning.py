"""Gradients reach every weight, and a small text is learnt."""

import torch
from torch.nn.functional import cross_entropy

from hierlm.contract.case import Case, ContractError, require
from hierlm.nn.layer import fold
from hierlm.nn.stream import Stream

UPDATES, GOOD_NATS = 200, 0.3


def runs_forwards_and_backwards_in_bf16(case: Case) -> None:
    """Logits are bf16 then, gradients finite."""
    model = case.fresh(seed=1).bfloat16()
    logits, _ = model(case.tokens(12))
    require(logits.dtype == torch.bfloat16, f"logits are {logits.dtype}")
    logits.float().logsumexp(dim=-1).mean().backward()
    odd = [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    require(not odd, f"gradients of {', '.join(odd)} are not finite")


def every_weight_gets_a_gradient(case: Case) -> None:
    """A finite one, of the loss and those that layers report."""
    model, text = case.copy.train(), case.tokens(12)
    stream, _ = fold(list(model.layers), Stream.of(text), model.initial_state(text))
    loss = cross_entropy(stream.hidden.flatten(0, 1), case.tokens(12, seed=8).flatten())
    sum((r.weight * r.per_row.mean() for r in stream.reports if r.kind == "loss"), start=loss).backward()
    without = [path for path, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    require(not without, f"no finite gradient: {', '.join(without)}")


def learns_64_tokens_by_heart(case: Case) -> None:
    """With Adam in 200 updates."""
    model, text = case.fresh(seed=1), case.tokens(17, batch=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(UPDATES):
        loss = cross_entropy(model(text[:, :-1])[0].flatten(0, 1), text[:, 1:].flatten())
        if loss < GOOD_NATS:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise ContractError(f"loss {loss.item():.3f} nats after {UPDATES} updates, expected below {GOOD_NATS}")
