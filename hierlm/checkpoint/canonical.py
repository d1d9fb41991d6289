"""The state of a run without its layout: full fp32 tensors under the names they have in the single-device model."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hierlm.checkpoint.engine_files import PARAMETER_SLICES, VOCAB_SIZE, Slice, read_slices
from hierlm.errors import UserError

NAMES_TOLD = 3
"""Names that a message lists before it counts the rest."""


class CanonicalState:
    """Weights and moments by sorted canonical name; one parameter is in memory at a time."""

    def __init__(self, slices: Sequence[Slice]) -> None:
        self._by_name: dict[str, list[Slice]] = {}
        for part in slices:
            for name, piece in part.pieces.items():
                if math.prod(piece.shape):  # 0.1 had parameters without values (memory tokens, none of them)
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
        """One of `STATES` of a parameter, fp32 and contiguous; moments that were never written are zeros.

        ValueError if stages that share a tied parameter do not hold the same: the run itself was broken.
        """
        holders = self._by_name[name]
        by_stage: dict[int, list[Tensor]] = {}
        for part in holders:
            piece = part.pieces[name]
            tensor = piece.tensor(state)
            by_stage.setdefault(part.pp_rank, []).append(torch.zeros(piece.shape) if tensor is None else tensor)
        first, *others = by_stage.values()
        if any(not torch.equal(ours, theirs) for other in others for ours, theirs in zip(first, other, strict=True)):
            raise ValueError(f"copies of the tied parameter {name} differ between pipeline stages")
        vocab_size = holders[0].info.get(VOCAB_SIZE)
        return merge_slices(first, rule=self.rule(name), vocab_size=vocab_size).contiguous()


def read_canonical(engine_dir: Path) -> CanonicalState:
    """The state a checkpoint's `engine` folder holds; ValueError if it is not whole."""
    return CanonicalState(read_slices(engine_dir))


def require_known_names(held: Iterable[str], known: Iterable[str], *, where: object) -> None:
    """UserError unless a checkpoint holds exactly the model's parameters; `where` is what the user knows it by."""
    if different := different_names(held, known):
        raise UserError(
            f"{where}: holds other parameters than the run's model ({different}): it was written by another model, or "
            "by hierlm 0.1 with position biases shared over pipeline stages, whose copies came apart; go on from a "
            "checkpoint of this model, or train anew under another `name`"
        )


def different_names(held: Iterable[str], known: Iterable[str]) -> str:
    """What is held and not known, and what is known and not held, in words; empty where they are the same."""
    held, known = set(held), set(known)
    parts = {"unknown": sorted(held - known), "missing": sorted(known - held)}
    return "; ".join(f"{what} {_shortened(names)}" for what, names in parts.items() if names)


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_TOLD} more" if len(names) > NAMES_TOLD else ""
    return ", ".join(names[:NAMES_TOLD]) + more


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
