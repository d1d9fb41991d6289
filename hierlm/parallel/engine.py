"""One adapter over DeepSpeed: the training loop sees steps, evaluation sees token losses, checkpoints see two calls."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from hierlm.checkpoint.tensor_file import content_that_fits, read_mapping
from hierlm.checkpoint.weights import Weights
from hierlm.config.run_config import RunConfig
from hierlm.models.assembly import (
    input_specs,
    is_recurrent,
)
from hierlm.nn.inputs import NO_INPUTS, Inputs, neutral
from hierlm.nn.layer import StepContext
from hierlm.optim.build import reset_optimizer
from hierlm.parallel.before_update import Gradients, look_before_update
from hierlm.parallel.build import build_module, engine_around
from hierlm.parallel.compilation import compile_layers
from hierlm.parallel.degrees import Degrees
from hierlm.parallel.first_weights import read_first_weights
from hierlm.parallel.groups import start_groups
from hierlm.parallel.host_copies import HostCopies
from hierlm.parallel.loading import own_files_read_plainly
from hierlm.parallel.loss_module import LossModule
from hierlm.parallel.memory_lanes import LaneState
from hierlm.parallel.micro_batch import batch_of
from hierlm.parallel.passes import Passes, PipelinePasses, WholeModelPasses
from hierlm.parallel.phase_switch import Kept, kept_over_switch, probe_rows, require_kept
from hierlm.parallel.pipeline import Pipeline
from hierlm.parallel.process import ProcessInfo
from hierlm.parallel.report_totals import Sent
from hierlm.parallel.saving import HeldFiles, OpenFile, hold_engine, save_engine
from hierlm.parallel.seams.optimizers import (
    PartitionedOptimizer,
)
from hierlm.parallel.seams.parameters import stored
from hierlm.parallel.seams.start import refuse_missing
from hierlm.parallel.share_gradients import add_up
from hierlm.parallel.skipped_steps import Skipped, are_finite, forget_lost_memories
from hierlm.parallel.universal import INFO, SLICES, load_universal, update_working_weights
from hierlm.phases.config import PhaseConfig
from hierlm.phases.timeline import Moment

TAG = "engine"
"""The folder DeepSpeed writes into, inside a checkpoint."""


Look = Callable[[Gradients, Moment], None]
"""What is called before an update."""


@dataclass(frozen=True)
class StepResult:
    """One optimizer step. Tensors, so that a step that is not logged never waits for the device."""

    loss: Tensor  # nats per token, mean over this data-parallel rank's rows
    grad_norm: Tensor  # global norm before clipping; infinite where the step is skipped
    is_skipped: Tensor  # bool []: nothing was updated, on any rank, because loss or gradient was not finite


class Measured(NamedTuple):
    """A step as it is recorded; the same on every rank."""

    loss: float  # the objective's, nats per token over the global batch
    reported: Mapping[str, float]  # `loss/<name>`, `loss/total` and metrics of layers
    grad_norm: float
    skipped: Skipped  # this step included
    is_skipped: bool
    flags: Sequence[float] = ()  # what every rank has said beside it, added up


class SentStep:
    """A step's numbers on their way to all ranks."""

    def __init__(self, sent: Sent, *, count: Callable[[bool], Skipped]) -> None:
        self._sent, self._count = sent, count

    def read(self) -> Measured:
        """Waits for this step, not for what was started since; once, in the order of steps, on every rank."""
        gathered, flags, (norm, skips) = self._sent.read()
        is_skipped = bool(skips)
        counts, reported = self._count(is_skipped), gathered.named(gathered.objective)
        return Measured(gathered.objective, reported, norm, counts, is_skipped, flags)


class Engine:
    """A model, its optimizer and its layout on this process."""

    def __init__(self, config: RunConfig[Any], *, process: ProcessInfo) -> None:
        self.config = config
        self.process = process
        refuse_missing()
        self.groups = start_groups(Degrees.of(config.parallel))
        self._phase = config.phases[0]
        self._input_specs = input_specs(config.model)
        self._is_recurrent = is_recurrent(config.model)
        module = build_module(config, self.groups).to(process.device)
        if config.train.compile:
            compile_layers(module.local_layers.values(), device=process.device)
        self._engine, self._universal_info, self._skips = engine_around(module, config, self._phase, groups=self.groups)
        self.module: LossModule | Pipeline = self._engine.module
        passes = PipelinePasses if isinstance(self.module, Pipeline) else WholeModelPasses
        self._passes: Passes = passes(self._engine, groups=self.groups, seed=config.seed)
        self._looks: Sequence[Look] = ()
        look_before_update(self._engine, self._look)
        if self.module.shares is not None and config.parallel.offload != "none":
            self.module.shares.sum_as_made()
        self._copies = HostCopies(pinned=process.device.type == "cuda")
        self._memory_copies = HostCopies(pinned=process.device.type == "cuda")
        self._skipped = Skipped()
        self._num_taken = 0
        self._uncounted: dict[int, Tensor] = {}  # by the number of the step, counted here

    @property
    def skipped(self) -> Skipped:
        """The counts, that of the last step included; waits for the device where it has not been read."""
        for is_skipped in self._uncounted.values():
            self._skipped = self._skipped.after(bool(is_skipped))
        self._uncounted.clear()
        return self._skipped

    @skipped.setter
    def skipped(self, counts: Skipped) -> None:
        self._skipped, self._uncounted = counts, {}

    def _counted(self, number: int, is_skipped: bool) -> Skipped:
        """The counts with this step in them; steps are counted in order, those already counted are not again."""
        if self._uncounted.pop(number, None) is not None:
            self._skipped = self._skipped.after(is_skipped)
        return self._skipped

    @property
    def dp_rank(self) -> int:
        return self.groups.dp_rank

    @property
    def dp_degree(self) -> int:
        return self.groups.degrees["data"]

    @property
    def data_group(self) -> dist.ProcessGroup:
        """The ranks that share this rank's weights and train on other rows."""
        return self.groups.data

    def local_rows(self, global_batch_size: int) -> range:
        """The rows of a global batch this process trains on."""
        share = global_batch_size // self.dp_degree
        return range(self.dp_rank * share, (self.dp_rank + 1) * share)

    def begin_phase(self, phase: PhaseConfig, *, reset: bool) -> None:
        """Take a phase's batch sizes; `reset` forgets the optimizer's moments."""
        self._phase = phase
        self._engine.set_train_micro_batch_size(self._micro_batch_size)
        self._engine.settings.gradient_accumulation_steps = self._num_micro_batches
        self._engine.micro_steps = 0  # DeepSpeed ends a step where this is a multiple of the number of micro-batches
        if isinstance(self._engine.optimizer, PartitionedOptimizer):  # it has its own copy
            self._engine.optimizer.gradient_accumulation_steps = self._num_micro_batches
        if reset:
            reset_optimizer(self._engine.basic_optimizer)

    def train_step(
        self,
        tokens: Tensor,
        targets: Tensor,
        *,
        moment: Moment,
        starts: Tensor | None = None,
        inputs: Inputs = NO_INPUTS,
        weights: Tensor | None = None,
    ) -> StepResult:
        """One optimizer step on this process's rows: tokens, targets int64 [rows, T].

        Left out, and counted in `skipped`, when loss or gradient is not finite anywhere.
        `starts` bool [rows], for recurrent models: the row begins a new stream, its memory is forgotten.
        `inputs`: what else the batch says of these rows, by name; what the model has a rule for may be missing.
        `weights` fp32 [rows, T]: how much each target counts, and then on every rank; the loss is sum(w nats) / sum(w)
        over the global batch. By default all count alike.
        """
        if starts is not None:  # before the switches: a new memory length must not meet an old one
            self._passes.training_lanes.forget(starts)
        self._begin_step(moment)
        self._moment = moment
        batch = batch_of(self._input_specs, tokens, targets, inputs, device=self.process.device, weights=weights)
        loss = self._passes.train(batch.split(self._micro_batch_size), step=moment.step)
        is_skipped = self._skips.now | bool(self._engine.optimizer.overflow)  # older releases know it on the host
        self._num_taken += 1
        self._uncounted[self._num_taken] = is_skipped
        if self._is_recurrent:
            num_rows = len(self.local_rows(self._phase.global_batch_size))
            forget_lost_memories(self._passes.training_lanes, num_rows=num_rows, group=self.groups.model)
        norm = torch.as_tensor(self._engine.get_global_grad_norm(), device=loss.device)
        return StepResult(loss, torch.where(is_skipped, torch.inf, norm.detach()), is_skipped)

    def call_before_update(self, looks: Sequence[Look]) -> None:
        """From now on, between the backward passes and the update of every step; every rank calls the same."""
        self._looks = looks

    def _look(self) -> None:
        gradients, shares = Gradients(self._engine, self.groups), self.module.shares
        if shares is not None:
            add_up(gradients, shares.seen_in_parts, group=shares.group)
        for look in self._looks:
            look(gradients, self._moment)

    def take_switches(self, moment: Moment) -> None:
        """Evaluate as after the step of `moment`: some switches reach into evaluation."""
        self._set_switches(moment, moment.phase)

    def forget_steps(self) -> None:
        """Empty the optimizer's moments, the training memories and the counts, as before the first step."""
        self.skipped = Skipped()
        reset_optimizer(self._engine.basic_optimizer)
        self._passes.training_lanes.clear()

    def evaluate(
        self, tokens: Tensor, targets: Tensor, *, continues: bool = False, inputs: Inputs = NO_INPUTS
    ) -> Tensor:
        """Nats of every token, fp32 [rows, T], 0 where the target is negative; every rank calls it equally often.

        With `continues` the rows go on where those of the call before ended: recurrent memory is carried.
        """
        batch = batch_of(self._input_specs, tokens, targets, inputs, device=self.process.device)
        first = self.config.phases[0].global_batch_size  # whatever phase it is: an evaluation made up for is the same
        rows_together = self.config.parallel.micro_batch(global_batch_size=first)
        return self._passes.evaluate(batch, continues=continues, rows_together=rows_together)

    def neutral_inputs(self, tokens: Tensor) -> Inputs:
        """What the model reads beside the tokens, for rows that are made up."""
        return neutral(self._input_specs, tokens)

    def send(self, result: StepResult, *, flags: Sequence[float] = ()) -> SentStep:
        """The step's loss over all rows and what layers reported in it, sent off to be read later.

        Beside it what `flags` of all ranks are together. Every rank calls it after the step, with equally many; the
        next step begins new sums.
        """
        own = (result.grad_norm, result.is_skipped)
        sent = self._passes.training_reports.send(result.loss, flags=flags, own=own)
        return SentStep(sent, count=partial(self._counted, self._num_taken))

    def forget_reports(self) -> None:
        """An evaluation begins: what layers report is added up from here on."""
        self._passes.evaluation_reports.clear()

    def evaluation_reports(self, loss: float) -> dict[str, float]:
        """What layers reported since `forget_reports`, and the total of their losses and `loss`; a collective call."""
        return self._passes.evaluation_reports.gather().named(loss)

    def global_mean(self, value: Tensor) -> float:
        """The mean of a scalar over data-parallel ranks; waits for the device."""
        return float(self.global_sum(value.detach().double())) / self.dp_degree

    def global_sum(self, values: Tensor) -> Tensor:
        """The sum over data-parallel ranks, on every rank."""
        total = values.to(self.process.device, copy=True)
        dist.all_reduce(total, group=self.data_group)
        return total

    def largest(self, value: int) -> int:
        """The largest value of all ranks."""
        tensor = torch.tensor([value], device=self.process.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor.item())

    def has_finite_weights(self) -> bool:
        """Whether every weight of every rank is; every rank calls it, and waits for the device."""
        working = map(stored, self.module.parameters())
        return self.largest(int(not are_finite([*working, *self._engine.basic_optimizer.state]))) == 0

    def recurrent_state(self) -> LaneState | None:
        """The training memories of this rank's rows and layers; None where another rank holds the same."""
        lanes = self._passes.training_lanes
        if self.groups.tp_rank != 0 or lanes.is_empty:
            return None
        return lanes.state_by_global_row(first_row=self.local_rows(self._phase.global_batch_size).start)

    def restore_recurrent_state(self, states: Sequence[LaneState], *, phase: PhaseConfig) -> None:
        """Take this rank's rows and layers out of what all ranks of any layout saved during `phase`."""
        self.begin_phase(phase, reset=False)
        rows = self.local_rows(phase.global_batch_size)
        self._passes.training_lanes.restore(
            states, first_row=rows.start, num_rows=len(rows), micro_batch_size=self._micro_batch_size
        )

    def save(self, directory: Path, *, client_state: dict[str, Any], open_file: OpenFile) -> None:
        """Write this process's part of weights and optimizer under `directory`; every rank calls it.

        Raises the first error of this rank's files, after all ranks are through.
        """
        state = {**client_state, INFO: self._universal_info}
        save_engine(self._engine, directory, tag=TAG, client_state=state, open_file=open_file)

    def hold(self, *, client_state: dict[str, Any]) -> tuple[HeldFiles, LaneState | None]:
        """Copies of what `save` writes and of `recurrent_state`, in host memory that the next call uses again.

        Every rank calls it; errors as in `save`.
        """
        state = {**client_state, INFO: self._universal_info}
        files = hold_engine(self._engine, self._copies, tag=TAG, client_state=state)
        return files, self._memory_copies.take(self.recurrent_state())

    def is_grouped_as(self, directory: Path) -> bool:
        """Whether the same parameters were updated together when `directory` was saved, on every rank.

        Phases added to a run may part them anew, by what they train, and 0.1 decayed others (u and v): the checkpoint
        must then be converted.
        """
        file = self._engine.file_of_weights(str(directory), TAG)
        names = "optimizer_parameter_names"
        with content_that_fits(Path(file)):
            saved = read_mapping(Path(file))[INFO][names]
        return self.largest(int(saved != self._universal_info[names])) == 0

    def load(self, directory: Path) -> dict[str, Any]:
        """Read what `save` wrote on the same layout; the client state. Nothing found is an error: no fresh start."""
        if not os.path.isdir(directory / TAG):
            raise FileNotFoundError(f"{directory / TAG}: no engine state in this checkpoint")
        with content_that_fits(directory / TAG), own_files_read_plainly(self._engine):
            path, client_state = self._engine.load_checkpoint(str(directory), tag=TAG)
        if path is None:
            raise RuntimeError(f"{directory}: DeepSpeed loaded nothing")
        return dict(client_state)

    def load_converted(self, directory: Path) -> dict[str, Any]:
        """Read a checkpoint of another layout, converted by `hierlm.checkpoint.universal`; the client state."""
        memory_bytes = self.config.checkpoint.conversion_memory_bytes
        names = self._universal_info[SLICES]
        with content_that_fits(directory / TAG):
            return load_universal(self._engine, directory / TAG, names=names, memory_bytes=memory_bytes)

    def read_first_weights(self, weights: Weights, taken: Mapping[str, str]) -> None:
        """Before the first step: this rank's share of the parameters in `taken`, each from the tensor it names there.

        Nothing is exchanged; `follow_first_weights` does that, once every rank is through.
        """
        rules = self._universal_info[SLICES]
        read_first_weights(self._engine, weights, taken, rules=rules, groups=self.groups)

    def follow_first_weights(self) -> None:
        """The forward pass takes what was read; every rank calls it."""
        update_working_weights(self._engine)

    @property
    def _micro_batch_size(self) -> int:
        return self.config.parallel.micro_batch(global_batch_size=self._phase.global_batch_size)

    @property
    def _num_micro_batches(self) -> int:
        return self.config.parallel.grad_accumulation_steps(global_batch_size=self._phase.global_batch_size)

    def _begin_step(self, moment: Moment) -> None:
        if not (moment.starts_phase and moment.step > 0):
            self._take(moment, reset=False)
            return
        resets = moment.phase.optimizer_state == "reset"
        before = self._kept_over_switch(moment)
        self._take(moment, reset=resets)
        require_kept(before, self._kept_over_switch(moment), phase=moment.phase.name, resets_optimizer=resets)
        self._set_switches(moment, moment.phase)

    def _take(self, moment: Moment, *, reset: bool) -> None:
        """The phase's sizes, switches, draws and learning rate."""
        if reset or moment.phase is not self._phase:
            self.begin_phase(moment.phase, reset=reset)
        self._set_switches(moment, moment.phase)
        self._engine.basic_optimizer.begin_update(moment.phase_index, learning_rate=moment.learning_rate)

    def _set_switches(self, moment: Moment, phase: PhaseConfig) -> None:
        model = self.config.model
        own = {name: getattr(model, name) for name in model.train_switches()}
        self.module.begin_step(StepContext(moment.step, self.config.seed, {**own, **phase.model}))

    def _kept_over_switch(self, moment: Moment) -> Kept:
        """What a switch must leave alone, seen with the switches of the phase before: some reach into evaluation."""
        self._set_switches(moment, self.config.phases[moment.phase_index - 1])
        tokens, targets = probe_rows(self.config.model.vocab_size, device=self.process.device)
        evaluated = self.evaluate(tokens, targets, inputs=self.neutral_inputs(tokens))
        return kept_over_switch(self._engine, self._passes.training_lanes, evaluated=evaluated)
