"""The proof that a load is right: what the model says of a few fixed tokens is stored in the checkpoint, and compared.

Checksums show that the bytes are those written; this shows that they ended up in the right weights, under any layout.
Every weight but the embeddings of tokens that do not occur has a part in it.
"""

import math
from collections.abc import Sequence

from hierlm.parallel.engine import Engine
from hierlm.parallel.phase_switch import probe_rows
from hierlm.phases.timeline import Moment

Proof = tuple[float, ...]
"""Nats of each fixed token."""

ALLOWED_SHARE = {"fp32": 1e-4, "bf16": 2.0**-6}
"""Of the largest loss: another layout or device adds up in another order. Numbers of bf16 lie up to 2^-7 of their size
apart, and the logits of every token are of the size of the largest losses."""

LEAST_NATS = {"fp32": 1e-3, "bf16": 0.1}
"""Allowed however small the losses are: what the logits are made of is rounded as well."""


def proof_of(engine: Engine, *, last: Moment) -> Proof | None:
    """What the state after the step `last` says; every rank calls it, training is not touched.

    None for a model that has diverged: nothing equals a NaN.
    """
    engine.take_switches(last)
    tokens, targets = probe_rows(engine.config.model.vocab_size, device=engine.process.device)
    nats = engine.evaluate(tokens, targets, inputs=engine.neutral_inputs(tokens))
    found = tuple(round(value, 6) for value in nats.flatten().double().tolist())
    return found if all(map(math.isfinite, found)) else None


def allowed_nats(stored: Sequence[float], *, precision: str) -> float:
    """How far a token's loss may be from the stored one, by the size of them all."""
    return max(LEAST_NATS[precision], ALLOWED_SHARE[precision] * max(map(abs, stored), default=0.0))


def difference(stored: Sequence[float], found: Sequence[float] | None, *, precision: str) -> str | None:
    """What is wrong, in a few words; None when the load is right."""
    if found is None:
        return "its losses are not finite"
    if len(found) != len(stored):
        return f"{len(found)} tokens were asked, {len(stored)} when it was saved"
    allowed = allowed_nats(stored, precision=precision)
    place, off = max(enumerate(abs(a - b) for a, b in zip(stored, found, strict=True)), key=lambda pair: pair[1])
    if off <= allowed:
        return None
    costs = f"token {place} costs {found[place]:.4f} nats, {stored[place]:.4f} when it was saved"
    return f"{costs}, allowed: {allowed:.4g} apart"
