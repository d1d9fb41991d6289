"""The state of a run without its layout: full fp32 tensors under the names they have in the single-device model."""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hierlm.checkpoint.blocks import MEMORY_BYTES, blocks_of, full_shape
from hierlm.checkpoint.engine_files import PARAMETER_SLICES, VOCAB_SIZE, WEIGHTS, Piece, Slice, read_slices
from hierlm.checkpoint.tensor_file import Mapped, WrongContentError, content_that_fits, give_back
from hierlm.errors import UserError

NAMES_TOLD = 3
"""Names that a message lists before it counts the rest."""


class CanonicalState:
    """Weights and optimizer states by sorted canonical name; one parameter, or block of it, is in memory at a time."""

    def __init__(self, slices: Sequence[Slice], *, where: Path, mapped: Mapped | None = None) -> None:
        """`where`: what errors name; `mapped`: the files in which the slices lie."""
        self._where = where
        self._mapped = [] if mapped is None else mapped
        self._by_name: dict[str, list[Slice]] = {}
        for part in slices:
            for name, piece in part.pieces.items():
                if math.prod(piece.shape):  # 0.1 had parameters without values (memory tokens, none of them)
                    self._by_name.setdefault(name, []).append(part)
        if not self._by_name:
            raise WrongContentError(f"{where}: holds no parameters; go on from another checkpoint")
        self.names = sorted(self._by_name)
        self.first = slices[0]
        self.state_names = self.first.names
        """What the optimizer that wrote it calls its states and counts."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """What `tensor` gives of a parameter: the weight, then the optimizer's states."""
        return (WEIGHTS, *self.state_names.states)

    @property
    def counts(self) -> dict[str, int]:
        """What the optimizer has counted (AdamW: updates since the last reset), the most of all parameters."""
        of_all = [self.counts_of(name) for name in self.names]
        return {count: max(each[count] for each in of_all) for count in self.state_names.counts}

    def counts_of(self, name: str) -> dict[str, int]:
        """The same of one parameter: fewer updates than of others when a phase did not train it."""
        pieces = [part.pieces[name] for part in self._by_name[name]]
        with content_that_fits(self._where):
            return {count: max(piece.counts.get(count, 0) for piece in pieces) for count in self.state_names.counts}

    def rule(self, name: str) -> str:
        """How the layout cuts this parameter: column | row | vocabulary | replicate."""
        with content_that_fits(self._where):
            return slice_rule(self._by_name[name][0].info, name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the full parameter."""
        holders = self._by_name[name]
        first = [part.pieces[name] for part in holders if part.pp_rank == holders[0].pp_rank]
        return full_shape(first, rule=self.rule(name), vocab_size=holders[0].info.get(VOCAB_SIZE))

    def blocks(self, name: str, state: str, *, most_bytes: int = MEMORY_BYTES) -> Iterator[Tensor]:
        """What `tensor` gives, flattened and in blocks, so that no more than `most_bytes` are in memory; raises alike.

        A block is good until the next one is asked for.
        """
        stages: dict[int, list[Piece]] = {}
        for part in self._by_name[name]:
            stages.setdefault(part.pp_rank, []).append(part.pieces[name])
        with content_that_fits(self._where):
            yield from blocks_of(
                list(stages.values()),
                state,
                name=name,
                rule=self.rule(name),
                vocab_size=self._by_name[name][0].info.get(VOCAB_SIZE),
                most_bytes=most_bytes,
                give_back=lambda: give_back(self._mapped),
            )

    def pieces(self, name: str) -> list[Piece]:
        """What the tensor-parallel ranks hold of it, in their order; one where all hold the same."""
        holders = self._by_name[name]
        of_one_stage = [part.pieces[name] for part in holders if part.pp_rank == holders[0].pp_rank]
        return of_one_stage[:1] if self.rule(name) == "replicate" else of_one_stage

    def tensor(self, name: str, state: str) -> Tensor:
        """One of `kinds` of a parameter, fp32 and contiguous; a state that was never written is zeros.

        ValueError if stages that share a tied parameter do not hold the same: the run itself was broken; or if what a
        slice holds does not fit the others.
        """
        whole = [block.clone() for block in self.blocks(name, state, most_bytes=sys.maxsize)]
        return torch.cat(whole).view(self.shape(name))


def read_canonical(engine_dir: Path) -> CanonicalState:
    """The state a checkpoint's `engine` folder holds; ValueError if it is not whole."""
    mapped: Mapped = []
    return CanonicalState(read_slices(engine_dir, mapped=mapped), where=engine_dir, mapped=mapped)


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
