"""Blocks, end to end, are the tensor: for every way to cut it, however small they are."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hierlm.checkpoint.canonical import CanonicalState
from hierlm.checkpoint.engine_files import PARAMETER_SLICES, VOCAB_SIZE, Piece, Slice

FULL = torch.arange(60.0).view(12, 5)
NAME = "0.weight"
CUTS: dict[str, list[torch.Tensor]] = {
    "column": list(FULL.chunk(3)),
    "row": [FULL[:, :2], FULL[:, 2:]],
    "replicate": [FULL, FULL],
    "vocabulary": list(torch.cat([FULL, torch.zeros(3, 5)]).chunk(3)),
}


def piece(part: torch.Tensor, *, num_fragments: int) -> Piece:
    return Piece(tuple(part.shape), fragments={"fp32": list(part.reshape(-1).tensor_split(num_fragments))})


def state(rule: str, *, num_fragments: int, stages: int = 1, spoil: bool = False) -> CanonicalState:
    info: dict[str, Any] = {PARAMETER_SLICES: {NAME: rule}, VOCAB_SIZE: len(FULL)}
    slices = []
    for stage in range(stages):
        for rank, part in enumerate(CUTS[rule]):
            own = part.clone()
            if spoil and (stage, rank) == (stages - 1, len(CUTS[rule]) - 1):
                own.view(-1)[0] += 1
            slices.append(Slice(stage, rank, {NAME: piece(own, num_fragments=num_fragments)}, info, {}))
    return CanonicalState(slices, where=Path("engine"))


@pytest.mark.parametrize("most_bytes", [1, 64, 200, 10_000])
@pytest.mark.parametrize("num_fragments", [1, 3, 7])
@pytest.mark.parametrize("rule", list(CUTS))
def test_blocks_end_to_end_are_the_tensor(rule: str, num_fragments: int, most_bytes: int) -> None:
    for stages in (1, 2):
        held = state(rule, num_fragments=num_fragments, stages=stages)
        blocks = [block.clone() for block in held.blocks(NAME, "fp32", most_bytes=most_bytes)]
        assert torch.equal(torch.cat(blocks).view(held.shape(NAME)), FULL)
        assert torch.equal(held.tensor(NAME, "fp32"), FULL)
        widest = FULL.shape[1] if rule == "row" else 1  # of a last dimension that is cut a whole row is joined
        assert all(len(block) <= max(widest, most_bytes // 4) for block in blocks)
        assert math.prod(held.shape(NAME)) == sum(map(len, blocks))


def test_a_vector_over_the_vocabulary_loses_its_padding() -> None:
    info: dict[str, Any] = {PARAMETER_SLICES: {NAME: "vocabulary"}, VOCAB_SIZE: 5}
    parts = torch.arange(6.0).chunk(2)
    slices = [Slice(0, rank, {NAME: piece(part, num_fragments=1)}, info, {}) for rank, part in enumerate(parts)]
    assert torch.equal(CanonicalState(slices, where=Path("engine")).tensor(NAME, "fp32"), torch.arange(5.0))


@pytest.mark.parametrize("rule", list(CUTS))
def test_a_state_that_was_never_written_is_zeros(rule: str) -> None:
    held = state(rule, num_fragments=2)
    assert not torch.cat(list(held.blocks(NAME, "exp_avg", most_bytes=100))).any()
    assert torch.cat(list(held.blocks(NAME, "exp_avg"))).shape == (60,)


@pytest.mark.parametrize(("rule", "stages"), [("replicate", 1), *((rule, 2) for rule in CUTS)])
def test_copies_that_differ_are_an_error_as_in_the_whole_tensor(rule: str, stages: int) -> None:
    held = state(rule, num_fragments=2, stages=stages, spoil=True)
    for give in (lambda: held.tensor(NAME, "fp32"), lambda: list(held.blocks(NAME, "fp32", most_bytes=64))):
        with pytest.raises(ValueError, match="copies of"):
            give()
