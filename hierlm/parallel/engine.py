"""One adapter over DeepSpeed: the training loop sees steps, evaluation sees token losses, checkpoints see two calls."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from hierlm.config.run_config import RunConfig
from hierlm.models.assembly import layer_specs
from hierlm.models.contract import StepContext
from hierlm.optim.build import build_optimizer, reset_optimizer
from hierlm.parallel.cut import stage_cut
from hierlm.parallel.degrees import Degrees
from hierlm.parallel.gradient_norm import clip_gradients, partitioned_norm
from hierlm.parallel.groups import Groups, start_groups
from hierlm.parallel.loss_module import LossModule
from hierlm.parallel.memory_lanes import LaneState
from hierlm.parallel.passes import Passes, PipelinePasses, WholeModelPasses
from hierlm.parallel.pipeline import Pipeline
from hierlm.parallel.process import ProcessInfo
from hierlm.parallel.saving import OpenFile, save_engine
from hierlm.parallel.stage_model import build_stage, tensor_plan
from hierlm.parallel.universal import INFO, load_universal, universal_info
from hierlm.parallel.zero import clip_norm, deepspeed_config
from hierlm.phases.config import PhaseConfig
from hierlm.phases.timeline import Moment

TAG = "engine"
"""The folder DeepSpeed writes into, inside a checkpoint."""


@dataclass(frozen=True)
class StepResult:
    """One optimizer step. Tensors, so that a step that is not logged never waits for the device."""

    loss: Tensor  # nats per token, mean over this data-parallel rank's rows
    grad_norm: float | Tensor  # global norm before clipping


class Engine:
    """A model, its optimizer and its layout on this process."""

    def __init__(self, config: RunConfig[Any], *, process: ProcessInfo) -> None:
        self.config = config
        self.process = process
        self.groups = start_groups(Degrees.of(config.parallel))
        self._phase = config.phases[0]
        module = _build_module(config, self.groups).to(process.device)
        self._engine, self._universal_info = _wrap(module, config, self._phase, groups=self.groups)
        self.module: LossModule | Pipeline = self._engine.module
        passes = PipelinePasses if isinstance(self.module, Pipeline) else WholeModelPasses
        self._passes: Passes = passes(self._engine, groups=self.groups, seed=config.seed)

    @property
    def dp_rank(self) -> int:
        return self.groups.dp_rank

    @property
    def dp_degree(self) -> int:
        return self.groups.degrees.data

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
        self._engine._config.gradient_accumulation_steps = self._num_micro_batches
        if reset:
            reset_optimizer(self._engine.basic_optimizer)

    def train_step(
        self, tokens: Tensor, targets: Tensor, *, moment: Moment, starts: Tensor | None = None
    ) -> StepResult:
        """One optimizer step on this process's rows: tokens, targets int64 [rows, T].

        `starts` bool [rows], for recurrent models: the row begins a new stream, its memory is forgotten.
        """
        if starts is not None:  # before the switches: a new memory length must not meet an old one
            self._passes.training_lanes.forget(starts)
        self._begin_step(moment)
        loss = self._passes.train(self._micro_batches(tokens, targets), step=moment.step)
        return StepResult(loss=loss, grad_norm=self._engine.get_global_grad_norm())

    def forget_steps(self) -> None:
        """Empty the optimizer's moments and the training memories, as before the first step."""
        reset_optimizer(self._engine.basic_optimizer)
        self._passes.training_lanes.clear()

    def evaluate(self, tokens: Tensor, targets: Tensor, *, continues: bool = False) -> Tensor:
        """Nats of every token, fp32 [rows, T], 0 where the target is negative; every rank calls it equally often.

        With `continues` the rows go on where those of the call before ended: recurrent memory is carried.
        """
        device = self.process.device
        return self._passes.evaluate(tokens.to(device), targets.to(device), continues=continues)

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

    def recurrent_state(self) -> LaneState | None:
        """The training memories of this rank's rows and layers; None where another rank holds the same."""
        lanes = self._passes.training_lanes
        if self.groups.tp_rank != 0 or lanes.is_empty:
            return None
        return lanes.state_by_global_row(first_row=self.local_rows(self._phase.global_batch_size).start)

    def restore_recurrent_state(self, states: Sequence[LaneState], *, phase: PhaseConfig) -> None:
        """Take this rank's rows and layers out of what all ranks of any layout saved during `phase`."""
        self._phase = phase
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

    def load(self, directory: Path) -> dict[str, Any]:
        """Read what `save` wrote on the same layout; the client state. Nothing found is an error: no fresh start."""
        if not os.path.isdir(directory / TAG):
            raise FileNotFoundError(f"{directory / TAG}: no engine state in this checkpoint")
        path, client_state = self._engine.load_checkpoint(str(directory), tag=TAG)
        if path is None:
            raise RuntimeError(f"{directory}: DeepSpeed loaded nothing")
        return dict(client_state)

    def load_converted(self, directory: Path) -> dict[str, Any]:
        """Read a checkpoint of another layout, converted by `hierlm.checkpoint.universal`; the client state."""
        return load_universal(self._engine, directory / TAG)

    @property
    def _micro_batch_size(self) -> int:
        return self.config.parallel.micro_batch(global_batch_size=self._phase.global_batch_size)

    @property
    def _num_micro_batches(self) -> int:
        return self.config.parallel.grad_accumulation_steps(global_batch_size=self._phase.global_batch_size)

    def _begin_step(self, moment: Moment) -> None:
        if moment.starts_phase or moment.phase is not self._phase:
            reset = moment.starts_phase and moment.phase.optimizer_state == "reset" and moment.step > 0
            self.begin_phase(moment.phase, reset=reset)
        model = self.config.model
        own = {name: getattr(model, name) for name in model.train_switches()}
        context = StepContext(moment.step, self.config.seed, {**own, **moment.phase.model})
        for layer in self.module.local_layers.values():
            layer.begin_step(context)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = moment.learning_rate

    def _micro_batches(self, tokens: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
        device, size = self.process.device, self._micro_batch_size
        moved = (tensor.to(device, non_blocking=True).split(size) for tensor in (tokens, targets))
        return list(zip(*moved, strict=True))


def _build_module(config: RunConfig[Any], groups: Groups) -> LossModule | Pipeline:
    recompute = config.parallel.activation_recompute
    if groups.degrees.pipeline > 1:
        boundaries = stage_cut(config).boundaries
        return Pipeline(config.model, seed=config.seed, boundaries=boundaries, groups=groups, recompute=recompute)
    everything = range(len(layer_specs(config.model)))
    built = build_stage(config.model, seed=config.seed, stage=everything, groups=groups)
    return LossModule(built.layers, recompute=recompute)


def _wrap(
    module: LossModule | Pipeline, config: RunConfig[Any], phase: PhaseConfig, *, groups: Groups
) -> tuple[Any, dict[str, Any]]:
    """(DeepSpeed's engine, what its checkpoints must say of the parameters)."""
    optimizer = build_optimizer(config.optim, module)
    model = config.model
    info = universal_info(
        module, optimizer, plan=tensor_plan(model), vocab_size=model.vocab_size, pipeline=groups.pipeline
    )
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    settings = deepspeed_config(config, phase, num_parameters=num_parameters)
    mpu = None if isinstance(module, Pipeline) else groups  # a pipeline brings its own
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, mpu=mpu, config=settings)

    def clip_and_keep_norm() -> None:
        # DeepSpeed clips fp32 gradients at stage 0 without keeping the norm; `_take_model_step` looks for it here
        parameters = engine.module.parameters()
        engine.optimizer._global_grad_norm = clip_gradients(parameters, max_norm=clip_norm(config), groups=groups)

    engine.clip_fp32_gradients = clip_and_keep_norm
    if isinstance(module, Pipeline) and engine.zero_optimization() and hasattr(engine.optimizer, "averaged_gradients"):
        engine.optimizer.scaled_global_norm = partial(partitioned_norm, engine.optimizer, groups)
    # PipelineEngine would write and read weights layer by layer, without names: keep to one form of checkpoint
    engine.module_state_dict = partial(deepspeed.DeepSpeedEngine.module_state_dict, engine)
    engine.load_module_state_dict = partial(deepspeed.DeepSpeedEngine.load_module_state_dict, engine)
    return engine, info
