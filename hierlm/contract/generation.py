"""Generation from a cache says what the forward pass says, for less."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from hierlm.contract.case import Case, NotConcernedError, require, require_close
from hierlm.models.decoding import Decoder

CUTS = ([1] * 13, [5, 1, 1, 6], [2, 3, 8], [13])


@torch.no_grad()
def generation_equals_the_forward_pass(case: Case) -> None:
    """Whatever pieces a text comes in."""
    case.concerns_what_sees("past")
    text = case.tokens(13)
    whole, _ = case.model(text)
    for cut in CUTS:
        decoder = Decoder(case.model)
        parts = [decoder.extend(piece) for piece in text.split(cut, dim=1)]
        require_close(torch.cat(parts, dim=1), whole, within=1e-9, what=f"logits of pieces of {cut} tokens")


def generation_costs_less(case: Case) -> None:
    """A token more costs a fraction of the whole text, where layers keep a cache."""
    case.concerns_what_sees("past")
    model, text = case.model, case.tokens(24)
    decoder = Decoder(model)
    if not decoder.is_cached:
        raise NotConcernedError("a layer has no `decode`: generation runs over the whole text")
    decoder.extend(text[:, :-1])
    with FlopCounterMode(display=False) as step:
        decoder.extend(text[:, -1:])
    with FlopCounterMode(display=False) as full, torch.no_grad():
        model(text)
    keeps_hidden_states = any(memory is not None for memory in model.initial_state(text))  # and projects them again
    most = full.get_total_flops() / (1.5 if keeps_hidden_states else 8)
    require(step.get_total_flops() < most, f"a token costs {step.get_total_flops():,} FLOPs, allowed: {most:,.0f}")
