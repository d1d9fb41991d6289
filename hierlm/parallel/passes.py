"""The forward and backward passes of one optimizer step, and of an evaluation, with and without a pipeline."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from hierlm.parallel.groups import Groups
from hierlm.parallel.loss_module import LossModule
from hierlm.parallel.memory_lanes import MemoryLanes
from hierlm.parallel.pipeline import Pipeline
from hierlm.parallel.skipped_steps import spoiling_if_not_finite

MicroBatch = tuple[Tensor, Tensor]
"""tokens, targets int64 [rows, T]."""


class Passes(Protocol):
    """What the engine needs of either kind; every rank calls each method equally often with equal shapes."""

    training_lanes: MemoryLanes

    def train(self, micro_batches: Sequence[MicroBatch], *, step: int) -> Tensor:
        """One optimizer step; the mean loss of this data-parallel rank's rows, nats per token."""

    def evaluate(self, tokens: Tensor, targets: Tensor, *, continues: bool) -> Tensor:
        """Nats of every token, fp32 [rows, T], on every rank; `continues` carries the memory of the call before."""


class WholeModelPasses:
    """One stage: micro-batch by micro-batch through DeepSpeedEngine."""

    def __init__(self, engine: Any, *, groups: Groups, seed: int) -> None:
        self._engine, self._groups, self._seed = engine, groups, seed
        self._module: LossModule = engine.module
        self.training_lanes = _lanes(engine)
        self._evaluation_lanes = _lanes(engine)

    def train(self, micro_batches: Sequence[MicroBatch], *, step: int) -> Tensor:
        losses, row = [], first_row(micro_batches, dp_rank=self._groups.dp_rank)
        for index, (tokens, targets) in enumerate(micro_batches):
            memories = self.training_lanes.get(index, num_rows=tokens.shape[0])
            nats, updated = self._engine(tokens, targets, memories, (self._seed, step, row))
            row += tokens.shape[0]
            self.training_lanes.put(index, updated)
            loss = nats.mean()
            self._engine.backward(spoiling_if_not_finite(loss))
            self._engine.step()
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def evaluate(self, tokens: Tensor, targets: Tensor, *, continues: bool) -> Tensor:
        if not continues:
            self._evaluation_lanes.clear()
        memories = self._evaluation_lanes.get(0, num_rows=tokens.shape[0])
        self._engine.eval()
        with torch.no_grad():
            nats, updated = self._engine(tokens, targets, memories, None)
        self._evaluation_lanes.put(0, updated)
        self._engine.train()
        result: Tensor = nats
        return result


class PipelinePasses:
    """Several stages: DeepSpeed's schedule, one forward and one backward pass in turn (1F1B)."""

    def __init__(self, engine: Any, *, groups: Groups, seed: int) -> None:
        self._engine, self._groups, self._seed = engine, groups, seed
        self._module: Pipeline = engine.module
        self.training_lanes = _lanes(engine)
        self._evaluation_lanes = _lanes(engine)
        self._shapes: object = None

    def train(self, micro_batches: Sequence[MicroBatch], *, step: int) -> Tensor:
        self._expect(micro_batches, training=True)
        draws = (self._seed, step, first_row(micro_batches, dp_rank=self._groups.dp_rank))
        self._module.begin_pass(draws=draws, lanes=self.training_lanes)
        self._engine.micro_batches = len(micro_batches)
        self._engine.train_batch(iter(micro_batches))
        loss: Tensor = self._engine.dp_group_loss
        return loss

    def evaluate(self, tokens: Tensor, targets: Tensor, *, continues: bool) -> Tensor:
        # equal micro-batches keep all stages busy; shapes may not change within a pass
        num_stages = self._groups.degrees["pipeline"]
        num_parts = num_stages if tokens.shape[0] % num_stages == 0 else 1
        micro_batches = list(zip(tokens.chunk(num_parts), targets.chunk(num_parts), strict=True))
        self._expect(micro_batches, training=False)
        if not continues:
            self._evaluation_lanes.clear()
        self._module.begin_pass(draws=None, lanes=self._evaluation_lanes)
        self._engine.total_loss = None  # it would add token losses to the mean left by the step before
        parts = self._engine.eval_batch(
            iter(micro_batches), reduce_output=None, bcast_loss=False, num_micro_batches=num_parts
        )
        self._module.train()
        return self._known_to_all_stages(parts, like=targets)

    def _expect(self, micro_batches: Sequence[MicroBatch], *, training: bool) -> None:
        """Stages agree on shapes once, and anew when tokens, kind of pass or the draw of a layer change them."""
        shapes = (micro_batches[0][0].shape, training, self._module.drawn_shapes(training=training))
        if shapes != self._shapes:
            self._engine.reset_activation_shape()
            self._module.forget_shapes()
            self._shapes = shapes

    def _known_to_all_stages(self, parts: list[Tensor] | None, *, like: Tensor) -> Tensor:
        is_last = self._groups.is_last_stage
        nats = torch.cat(parts) if is_last and parts else torch.empty(like.shape, device=like.device)
        dist.broadcast(nats, src=self._groups.last_stage_rank, group=self._groups.pipeline)
        return nats


def first_row(micro_batches: Sequence[MicroBatch], *, dp_rank: int) -> int:
    """Where in the global batch the rows of a data-parallel rank begin, of which every rank has equally many."""
    return dp_rank * sum(tokens.shape[0] for tokens, _ in micro_batches)


def _lanes(engine: Any) -> MemoryLanes:
    parameter = next(engine.module.parameters())
    return MemoryLanes(engine.module.local_layers, device=engine.device, dtype=parameter.dtype)
