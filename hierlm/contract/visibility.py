"""Which tokens a logit depends on."""

from collections.abc import Iterator

import torch

from hierlm.contract.case import Case, require, require_close

LENGTHS = (2, 3, 4, 5, 13)


@torch.no_grad()
def has_a_row_of_logits_for_each_token(case: Case) -> None:
    """Any length from 1 on is taken in evaluation; logits are finite."""
    for length in (1, 2, 3, 4, 5, 7, 13):
        logits, _ = case.model(case.tokens(length))
        expected = (2, length, case.config.vocab_size)
        require(logits.shape == expected, f"{length} tokens: logits {list(logits.shape)}, expected {list(expected)}")
        require(bool(torch.isfinite(logits).all()), f"{length} tokens: logits are not finite")


@torch.no_grad()
def no_logit_depends_on_a_later_token(case: Case) -> None:
    """Other tokens from any place on change no logit before it."""
    case.concerns_what_sees("past")
    for length in LENGTHS:
        text = case.tokens(length)
        original, _ = case.model(text)
        for position in range(1, length):
            changed = torch.cat((text[:, :position], case.tokens(length - position, seed=position)), dim=1)
            require_close(
                case.model(changed)[0][:, :position],
                original[:, :position],
                within=1e-12 if case.rounds_by_suffix else 0.0,
                what=f"with tokens {position} to {length - 1} of {length} changed, logits before them",
            )


@torch.no_grad()
def every_past_token_matters(case: Case) -> None:
    """A changed token changes its own logit and every later one."""
    for position, unmoved in _unmoved(case):
        later = [place for place in unmoved if place >= position]
        require(not later, f"token {position} does not reach the logits of {later}")


@torch.no_grad()
def every_token_reaches_every_logit(case: Case) -> None:
    """In both directions, where tokens see all of the text."""
    case.concerns_what_sees("all")
    for position, unmoved in _unmoved(case):
        require(not unmoved, f"token {position} does not reach the logits of {unmoved}")


def _unmoved(case: Case) -> Iterator[tuple[int, list[int]]]:
    """Each position of a text, and where logits stay what they were when its token is another."""
    length, vocabulary = 14, case.config.vocab_size
    text = case.tokens(length, batch=1)
    original, _ = case.model(text)
    for position in range(length):
        changed = text.clone()
        changed[:, position] = (changed[:, position] + vocabulary * 2 // 5) % vocabulary
        difference = (case.model(changed)[0] - original).abs().amax(dim=(0, 2))
        yield position, [place for place in range(length) if not difference[place] > 0]


@torch.no_grad()
def logits_of_a_prefix_are_a_prefix(case: Case) -> None:
    """A text cut short has the logits that the whole text has there."""
    case.concerns_what_sees("past")
    text = case.tokens(13)
    whole, _ = case.model(text)
    for length in range(1, 13):
        found = case.model(text[:, :length])[0]
        require_close(found, whole[:, :length], within=1e-9, what=f"logits of the first {length} of 13 tokens")


@torch.no_grad()
def rows_do_not_touch(case: Case) -> None:
    """A row alone has the logits it has in a batch."""
    text = case.tokens(9)
    together, _ = case.model(text)
    require_close(case.model(text[1:])[0], together[1:], within=1e-9, what="logits of a row alone and in a batch")
