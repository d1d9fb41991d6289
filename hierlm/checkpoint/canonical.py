"""The state of a run without its layout: full fp32 tensors under the names they have in the single-device model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hierlm.checkpoint.engine_files import PARAMETER_SLICES, VOCAB_SIZE, Slice, read_slices


class CanonicalState:
    """Weights and moments by sorted canonical name; one parameter is in memory at a time."""

    def __init__(self, slices: Sequence[Slice]) -> None:
        self._by_name: dict[str, list[Slice]] = {}
        for part in slices:
            for name in part.pieces:
                self._by_name.setdefault(name, []).append(part)
        self.names = sorted(self._by_name)
        self.first = slices[0]

    @property
    def num_updates(self) -> int:
        """What Adam's bias correction has counted: optimizer updates since its state was last reset."""
        return max(map(self.updates_of, self.names))

    def updates_of(self, name: str) -> int:
        """The same of one parameter: fewer than of others when a phase did not train it."""
        return max(part.pieces[name].step for part in self._by_name[name])

    def rule(self, name: str) -> str:
        """How the layout cuts this parameter: column | row | vocabulary | replicate."""
        return slice_rule(self._by_name[name][0].info, name)

    def tensor(self, name: str, state: str) -> Tensor:
        """One of `STATES` of a parameter, fp32 and contiguous; moments that were never written are zeros."""
        holders = self._by_name[name]
        stage = holders[0].pp_rank  # a weight tied across stages is the same in each
        pieces = [part.pieces[name] for part in holders if part.pp_rank == stage]
        read = [piece.tensor(state) for piece in pieces]
        known = [torch.zeros(p.shape) if tensor is None else tensor for p, tensor in zip(pieces, read, strict=True)]
        vocab_size = holders[0].info.get(VOCAB_SIZE)
        return merge_slices(known, rule=self.rule(name), vocab_size=vocab_size).contiguous()


def read_canonical(engine_dir: Path) -> CanonicalState:
    """The state a checkpoint's `engine` folder holds; ValueError if it is not whole."""
    return CanonicalState(read_slices(engine_dir))


def slice_rule(info: Mapping[str, Any], name: str) -> str:
    """How a parameter was cut among tensor-parallel ranks: column | row | vocabulary | replicate (the default)."""
    rules: dict[str, str] = info.get(PARAMETER_SLICES, {})
    return rules.get(name, "replicate")


def merge_slices(slices: Sequence[Tensor], *, rule: str, vocab_size: int | None) -> Tensor:
    """The full parameter; `vocabulary` is `column` with padding rows at the end, which are dropped.

    ValueError if copies of a replicated one differ: the run itself was broken.
    """
    if rule == "replicate":
        if any(not torch.equal(slices[0], other) for other in slices[1:]):
            raise ValueError("copies of a replicated parameter differ between tensor-parallel ranks")
        return slices[0]
    full = slices[0] if len(slices) == 1 else torch.cat(list(slices), dim=-1 if rule == "row" else 0)
    return full[:vocab_size] if rule == "vocabulary" else full
