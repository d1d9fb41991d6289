"""A layout of a run, judged: memory, communication, time. Layouts that share a setting share what was run for it."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from hierlm.config.run_config import RunConfig
from hierlm.costs.cut import cut_for
from hierlm.costs.flops import TRAINING_FACTOR, LayerCost, layer_costs
from hierlm.costs.stage_cut import StageCut, cut_uniformly
from hierlm.parallel.config import ParallelConfig
from hierlm.parallel.degrees import Degrees
from hierlm.parallel.zero import LARGEST_BUCKET
from hierlm.phases.config import PhaseConfig
from hierlm.plan.communication import Traffic, traffic
from hierlm.plan.device import MOVES, PRODUCT_SHARE, USABLE_MEMORY, Device
from hierlm.plan.footprint import Profile
from hierlm.plan.layer_memory import Setting, profile
from hierlm.plan.memory import StageMemory, kind_of, stage_memories
from hierlm.plan.schedule import FORWARD_SHARE, as_built
from hierlm.plan.step_time import StageWork, StepTime, step_time
from hierlm.plan.zero_memory import Kind, holdings


@dataclass(frozen=True)
class FlopsPerToken:
    """Of the whole model, products only."""

    forward: float
    backward: float
    recompute: float

    @property
    def model(self) -> float:
        """What MFU counts: without recompute."""
        return self.forward + self.backward


@dataclass(frozen=True)
class PhaseEstimate:
    """One phase in one layout."""

    phase: PhaseConfig
    micro_batch_size: int
    micro_batches: int
    flops: FlopsPerToken
    stages: tuple[StageMemory, ...]
    traffic: tuple[Traffic, ...]
    time: StepTime
    mfu: float

    @property
    def fullest(self) -> StageMemory:
        """The stage whose ranks hold most."""
        return max(self.stages, key=lambda stage: stage.peak.total)

    @property
    def tokens_per_second(self) -> float:
        return self.phase.tokens_per_step / self.time.total


@dataclass(frozen=True)
class Estimate:
    """A layout over all phases."""

    layout: ParallelConfig
    cut: StageCut
    uniform_cut: StageCut
    phases: tuple[PhaseEstimate, ...]
    device: Device

    @property
    def peak_bytes(self) -> int:
        """The most any rank holds in any phase."""
        return max(phase.fullest.peak.total for phase in self.phases)

    @property
    def usable_bytes(self) -> int:
        return usable_bytes(self.device)

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.usable_bytes

    @property
    def seconds(self) -> float:
        """Of all steps of all phases."""
        return sum(each.time.total * each.phase.num_steps for each in self.phases)


def usable_bytes(device: Device) -> int:
    """What of a device's memory tensors may take."""
    return int(device.memory_bytes * USABLE_MEMORY)


class Estimator:
    """Judges layouts of one run on one device."""

    def __init__(self, config: RunConfig[Any], device: Device) -> None:
        self.config, self.device = config, device
        self._profiles: dict[tuple[Any, ...], Profile] = {}
        self._costs: dict[tuple[str, int], list[LayerCost]] = {}
        self._cuts: dict[Any, StageCut] = {}

    @cached_property
    def cut_costs(self) -> list[LayerCost]:
        """What stages are cut by: the first phase."""
        return self._layer_costs(self.config.model, self.config.phases[0].sequence_length)

    @property
    def is_extrapolated(self) -> bool:
        """Whether a model had to run on real rows."""
        return any(found.is_extrapolated for found in self._profiles.values())

    @property
    def usable_bytes(self) -> int:
        return usable_bytes(self.device)

    def least_seconds(self, layout: ParallelConfig) -> float:
        """Of all steps, without a profile: the products of stages that are even, and the filling of the pipeline."""
        seconds, stages = 0.0, layout.pipeline_parallel_degree
        rate = PRODUCT_SHARE * self.device.peak_flops(bf16=self._bf16) * layout.tensor_parallel_degree
        for phase in self.config.phases:
            rows = layout.micro_batch(global_batch_size=phase.global_batch_size)
            times = layout.grad_accumulation_steps(global_batch_size=phase.global_batch_size)
            each = TRAINING_FACTOR * rows * self._forward_flops(phase) / rate
            seconds += phase.num_steps * each * (times + stages - 1) / stages
        return seconds

    def least_bytes(self, layout: ParallelConfig) -> int:
        """Of the fullest rank, without a profile: weights, gradients and optimizer of an even share."""
        config = self.config.model_copy(update={"parallel": layout})
        parts = layout.tensor_parallel_degree * layout.pipeline_parallel_degree
        kind = kind_of(config, config.phases[0], on_gpu=self.device.is_gpu)
        held = holdings(kind, values=self._num_values // parts, largest=0, largest_layer=0)
        return held.weights + held.optimizer + held.gradients_always

    def estimate(self, layout: ParallelConfig, *, exact: bool = True) -> Estimate:
        """Judge a layout that obeys the rules; unless `exact`, micro-batches follow from those of one and two rows."""
        cut = self._cut(layout)
        phases = [phase for phase in self.config.phases if phase.num_steps > 0]
        return Estimate(
            layout=layout,
            cut=cut,
            uniform_cut=cut_uniformly(self.cut_costs, num_stages=layout.pipeline_parallel_degree),
            phases=tuple(self._phase(phase, layout, cut, exact=exact) for phase in phases),
            device=self.device,
        )

    def _phase(self, phase: PhaseConfig, layout: ParallelConfig, cut: StageCut, *, exact: bool) -> PhaseEstimate:
        config = self.config.model_copy(update={"parallel": layout})
        rows = layout.micro_batch(global_batch_size=phase.global_batch_size)
        seen = self._profile(phase, layout, rows=rows, exact=exact)
        memories = stage_memories(config, phase, profile=seen, boundaries=cut.boundaries, on_gpu=self.device.is_gpu)
        kind = kind_of(config, phase, on_gpu=self.device.is_gpu)
        tp_degree = layout.tensor_parallel_degree
        flows = [
            traffic(kind, profile=seen, layers=stage.layers, values=stage.num_values, tp_degree=tp_degree)
            for stage in memories
        ]
        works = [
            self._work(phase, layout, stage, flow, seen, kind=kind, rows=rows)
            for stage, flow in zip(memories, flows, strict=True)
        ]
        time = step_time(
            works,
            micro_batches=kind.micro_batches,
            degrees=Degrees.of(layout),
            device=self.device,
            bf16=self._bf16,
            num_states=kind.num_states,
            zero_stage=kind.stage,
            schedule=as_built(zero_stage=kind.stage, in_pipeline=kind.pipeline),
        )
        flops = self._flops_per_token(phase, layout, seen, rows=rows)
        achieved = flops.model * phase.tokens_per_step / time.total
        return PhaseEstimate(
            phase=phase,
            micro_batch_size=rows,
            micro_batches=kind.micro_batches,
            flops=flops,
            stages=tuple(memories),
            traffic=tuple(flows),
            time=time,
            mfu=achieved / (layout.world_size * self.device.peak_flops(bf16=self._bf16)),
        )

    def _work(
        self,
        phase: PhaseConfig,
        layout: ParallelConfig,
        stage: StageMemory,
        flow: Traffic,
        seen: Profile,
        *,
        kind: Kind,
        rows: int,
    ) -> StageWork:
        makes_loss = stage.layers.stop == len(seen.layers)
        own = [seen.layers[index] for index in stage.layers]
        made = sum(layer.made for layer in own) + makes_loss * seen.loss_made
        flops = self._stage_flops(phase, layout, stage.layers, seen, rows=rows)
        again = self._recomputed(phase, layout, stage.layers, seen, rows=rows) / layout.tensor_parallel_degree
        return StageWork(
            flops=flops,
            moved_bytes=MOVES * made,
            kernels=sum(layer.kernels for layer in own) + makes_loss * seen.loss_kernels,
            traffic=flow,
            updated_values=stage.num_values / (kind.dp_degree if kind.stage >= 1 else 1),
            pieces=self._pieces(kind, stage),
            forward_share=(flops - again) / TRAINING_FACTOR / flops if flops else FORWARD_SHARE,
        )

    def _pieces(self, kind: Kind, stage: StageMemory) -> int:
        """Layers, which ZeRO 3 gathers one by one, or buckets of gradients."""
        num_layers = max(len(stage.layers), 1)
        return num_layers if kind.stage == 3 else max(num_layers, -(-stage.num_values // LARGEST_BUCKET))

    @property
    def _bf16(self) -> bool:
        return self.config.train.precision == "bf16"

    def _cut(self, layout: ParallelConfig) -> StageCut:
        key = (layout.stage_cut, layout.pipeline_parallel_degree)
        if key not in self._cuts:
            self._cuts[key] = cut_for(layout, costs=self.cut_costs)
        return self._cuts[key]

    def _profile(self, phase: PhaseConfig, layout: ParallelConfig, *, rows: int, exact: bool) -> Profile:
        setting = Setting(
            model=self.config.model,
            phase=phase,
            rows=rows,
            tp_degree=layout.tensor_parallel_degree,
            recompute=layout.activation_recompute,
            bf16=self._bf16,
            on_gpu=self.device.is_gpu,
            sequence_parallel=layout.sequence_parallel,
            loss_chunk_tokens=self.config.train.loss_chunk_tokens,
        )
        if exact or rows <= 2:
            return self._run(setting)
        one, two = (self._run(replace(setting, rows=few)) for few in (1, 2))
        return one.extrapolated(two, at=(1, 2), rows=rows)

    def _run(self, setting: Setting) -> Profile:
        key = setting.key
        if key not in self._profiles:
            self._profiles[key] = profile(setting)
        return self._profiles[key]

    @cached_property
    def _num_values(self) -> int:
        return sum(cost.parameters for cost in self.cut_costs)

    def _forward_flops(self, phase: PhaseConfig) -> int:
        """Of a row."""
        return sum(cost.forward_flops for cost in self._costs_of(phase))

    def _costs_of(self, phase: PhaseConfig) -> list[LayerCost]:
        return self._layer_costs(self.config.model.model_copy(update=phase.model), phase.sequence_length)

    def _layer_costs(self, model: Any, sequence_length: int) -> list[LayerCost]:
        key = (repr(model), sequence_length)
        if key not in self._costs:
            size = 2 if self._bf16 else 4
            self._costs[key] = layer_costs(model, sequence_length=sequence_length, bytes_per_value=size)
        return self._costs[key]

    def _stage_flops(
        self, phase: PhaseConfig, layout: ParallelConfig, layers: range, seen: Profile, *, rows: int
    ) -> float:
        """One rank's, of one micro-batch, recompute included."""
        forward = sum(self._costs_of(phase)[index].forward_flops for index in layers) * rows
        again = self._recomputed(phase, layout, layers, seen, rows=rows)
        return (TRAINING_FACTOR * forward + again) / layout.tensor_parallel_degree

    def _recomputed(
        self, phase: PhaseConfig, layout: ParallelConfig, layers: range, seen: Profile, *, rows: int
    ) -> float:
        """FLOPs the backward passes of all tensor-parallel ranks make again."""
        costs = self._costs_of(phase)
        if layout.activation_recompute == "full":
            return sum(costs[index].forward_flops for index in layers) * rows
        again = 0.0
        if layout.activation_recompute == "selective":
            again += layout.tensor_parallel_degree * sum(seen.traffic[index].remade_flops for index in layers)
        head = len(costs) - 1
        if self.config.train.loss_chunk_tokens is not None and head in layers:
            again += costs[head].forward_flops * rows
        return again

    def _flops_per_token(
        self, phase: PhaseConfig, layout: ParallelConfig, seen: Profile, *, rows: int
    ) -> FlopsPerToken:
        tokens = rows * phase.sequence_length
        costs = self._costs_of(phase)
        forward = sum(cost.forward_flops for cost in costs) * rows
        again = self._recomputed(phase, layout, range(len(costs)), seen, rows=rows)
        return FlopsPerToken(forward / tokens, (TRAINING_FACTOR - 1) * forward / tokens, again / tokens)
