"""The forward and backward passes of one optimizer step, and of an evaluation, with and without a pipeline."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from hierlm.parallel.groups import Groups
from hierlm.parallel.layer_losses import beside, weighted_loss
from hierlm.parallel.loss_module import LossModule
from hierlm.parallel.memory_lanes import MemoryLanes
from hierlm.parallel.micro_batch import MicroBatch
from hierlm.parallel.pipeline import Pipeline
from hierlm.parallel.report_totals import ReportTotals
from hierlm.parallel.skipped_steps import spoiling_if_not_finite
from hierlm.parallel.weighting import Counting, part_of_loss, scale_of


class Passes(Protocol):
    """What the engine needs of either kind; every rank calls each method equally often with equal shapes."""

    training_lanes: MemoryLanes
    training_reports: ReportTotals  # of the step before
    evaluation_reports: ReportTotals  # since they were cleared

    def train(self, micro_batches: Sequence[MicroBatch], *, step: int) -> Tensor:
        """One optimizer step; this data-parallel rank's part of its loss, nats per token: the mean over ranks is it."""

    def evaluate(self, batch: MicroBatch, *, continues: bool, rows_together: int) -> Tensor:
        """Nats of every token, fp32 [rows, T], on every rank; `continues` carries the memory of the call before.

        `rows_together` go through a stage at once, where there are several.
        """


class WholeModelPasses:
    """One stage: micro-batch by micro-batch through DeepSpeedEngine."""

    def __init__(self, engine: Any, *, groups: Groups, seed: int) -> None:
        self._engine, self._groups, self._seed = engine, groups, seed
        self._module: LossModule = engine.module
        self.training_lanes, self._evaluation_lanes = _lanes(engine), _lanes(engine)
        self.training_reports, self.evaluation_reports = _report_totals(engine, groups), _report_totals(engine, groups)

    def train(self, micro_batches: Sequence[MicroBatch], *, step: int) -> Tensor:
        losses, row = [], first_row(micro_batches, dp_rank=self._groups.dp_rank)
        scale = scale_of(micro_batches, groups=self._groups)
        self.training_reports.clear()
        for index, batch in enumerate(micro_batches):
            memories = self.training_lanes.get(index, num_rows=batch.num_rows)
            key = (self._seed, step, row)
            counting = Counting(batch.weights, scale)
            nats, updated, reports = self._engine(batch.inputs, batch.targets, memories, key, counting)
            row += batch.num_rows
            self.training_lanes.put(index, updated)
            self.training_reports.add_rows(batch.num_rows)
            self.training_reports.add(reports, rows=None)
            loss = part_of_loss(nats, batch.weights, scale)
            self._engine.backward(spoiling_if_not_finite(beside(loss, weighted_loss(reports))))
            self._engine.step()
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def evaluate(self, batch: MicroBatch, *, continues: bool, rows_together: int) -> Tensor:
        if not continues:
            self._evaluation_lanes.clear()
        memories = self._evaluation_lanes.get(0, num_rows=batch.num_rows)
        self._engine.eval()
        with torch.no_grad():
            nats, updated, reports = self._engine(batch.inputs, batch.targets, memories, None)
        self._evaluation_lanes.put(0, updated)
        self.evaluation_reports.add_rows(batch.real_rows.sum())
        self.evaluation_reports.add(reports, rows=batch.real_rows)
        self._engine.train()
        result: Tensor = nats
        return result


class PipelinePasses:
    """Several stages: DeepSpeed's schedule, one forward and one backward pass in turn (1F1B)."""

    def __init__(self, engine: Any, *, groups: Groups, seed: int) -> None:
        self._engine, self._groups, self._seed = engine, groups, seed
        self._module: Pipeline = engine.module
        self.training_lanes, self._evaluation_lanes = _lanes(engine), _lanes(engine)
        self.training_reports, self.evaluation_reports = _report_totals(engine, groups), _report_totals(engine, groups)
        self._shapes: object = None

    def train(self, micro_batches: Sequence[MicroBatch], *, step: int) -> Tensor:
        self._expect(micro_batches, training=True)
        draws = (self._seed, step, first_row(micro_batches, dp_rank=self._groups.dp_rank))
        self.training_reports.clear()
        self.training_reports.add_rows(sum(batch.num_rows for batch in micro_batches))
        scale = scale_of(micro_batches, groups=self._groups)
        self._module.begin_pass(
            micro_batches, draws=draws, lanes=self.training_lanes, reports=self.training_reports, scale=scale
        )
        self._engine.micro_batches = len(micro_batches)
        self._engine.train_batch(_for_the_ends(micro_batches))
        loss: Tensor = self._engine.dp_group_loss
        return loss

    def evaluate(self, batch: MicroBatch, *, continues: bool, rows_together: int) -> Tensor:
        # equal micro-batches keep all stages busy; shapes may not change within a pass
        rows = rows_of_part(batch.num_rows, num_stages=self._groups.degrees["pipeline"], most=rows_together)
        micro_batches = batch.split(rows)
        num_parts = len(micro_batches)
        self._expect(micro_batches, training=False)
        if not continues:
            self._evaluation_lanes.clear()
        self.evaluation_reports.add_rows(batch.real_rows.sum())
        lanes, reports = self._evaluation_lanes, self.evaluation_reports
        self._module.begin_pass(micro_batches, draws=None, lanes=lanes, reports=reports)
        self._engine.total_loss = None  # it would add token losses to the mean left by the step before
        parts = self._engine.eval_batch(
            _for_the_ends(micro_batches), reduce_output=None, bcast_loss=False, num_micro_batches=num_parts
        )
        self._module.train()
        return self._known_to_all_stages(parts, like=batch.targets)

    def _expect(self, micro_batches: Sequence[MicroBatch], *, training: bool) -> None:
        """Stages agree on shapes once, and anew when tokens, kind of pass or the draw of a layer change them."""
        shapes = (micro_batches[0].tokens.shape, training, self._module.drawn_shapes(training=training))
        if shapes != self._shapes:
            self._engine.reset_activation_shape()
            self._module.forget_shapes()
            self._shapes = shapes

    def _known_to_all_stages(self, parts: list[Tensor] | None, *, like: Tensor) -> Tensor:
        is_last = self._groups.is_last_stage
        nats = torch.cat(parts) if is_last and parts else torch.empty(like.shape, device=like.device)
        dist.broadcast(nats, src=self._groups.last_stage_rank, group=self._groups.pipeline)
        return nats


def rows_of_part(num_rows: int, *, num_stages: int, most: int) -> int:
    """How many rows of an evaluation's pass go through the stages together: all parts have equally many.

    `most`, those of a training step, or fewer where that makes a part for each stage. With m parts, s stages lie idle
    for (s - 1) / (m + s - 1) of a pass.
    """
    counts = [num_stages, *([num_rows // most] if num_rows % most == 0 else [])]
    return num_rows // max((count for count in counts if num_rows % count == 0), default=1)


def first_row(micro_batches: Sequence[MicroBatch], *, dp_rank: int) -> int:
    """Where in the global batch the rows of a data-parallel rank begin, of which every rank has equally many."""
    return dp_rank * sum(batch.num_rows for batch in micro_batches)


def _for_the_ends(micro_batches: Sequence[MicroBatch]) -> Iterator[tuple[Tensor, Tensor]]:
    """What DeepSpeed hands to the first stage and to the loss; the stages between have the micro-batches themselves."""
    return iter([(batch.tokens, batch.targets) for batch in micro_batches])


def _report_totals(engine: Any, groups: Groups) -> ReportTotals:
    return ReportTotals(groups, device=engine.device)


def _lanes(engine: Any) -> MemoryLanes:
    parameter = next(engine.module.parameters())
    return MemoryLanes(engine.module.local_layers, device=engine.device, dtype=parameter.dtype)
