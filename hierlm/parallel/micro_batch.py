"""What goes through the layers at once: some rows of this rank's part of the global batch.

Shapes: n rows of this data-parallel rank, B of a micro-batch, T tokens.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hierlm.nn.inputs import TOKENS, Inputs, InputSpecs, completed, moved, split_rows


class MicroBatch(NamedTuple):
    """Held by every rank of every stage of a pipeline."""

    inputs: Inputs  # `tokens` int64 [B, T], and what else the architecture reads
    targets: Tensor  # int64 [B, T]
    weights: Tensor | None = None  # fp32 [B, T]: how much each target counts; None: all alike

    @property
    def tokens(self) -> Tensor:
        return self.inputs[TOKENS]

    @property
    def num_rows(self) -> int:
        return self.targets.shape[0]

    @property
    def real_rows(self) -> Tensor:
        """bool [B]: rows that are not padding, which have a target."""
        return (self.targets >= 0).any(dim=1)

    def split(self, num_rows: int) -> "list[MicroBatch]":
        """Micro-batches of so many rows."""
        inputs, targets = split_rows(self.inputs, num_rows), self.targets.split(num_rows)
        weights = [None] * len(targets) if self.weights is None else self.weights.split(num_rows)
        return [MicroBatch(*part) for part in zip(inputs, targets, weights, strict=True)]


def batch_of(
    specs: InputSpecs,
    tokens: Tensor,
    targets: Tensor,
    inputs: Mapping[str, Tensor],
    *,
    device: torch.device,
    weights: Tensor | None = None,
) -> MicroBatch:
    """All rows at once, on the device; inputs that are missing are made by their rules."""
    named = completed(specs, tokens, inputs)
    counted = None if weights is None else weights.to(device, torch.float32, non_blocking=True)
    return MicroBatch(moved(named, device), targets.to(device, non_blocking=True), counted)
