"""`hierlm plan`: what a run will need and how fast it should be, before anything is started."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hierlm.config.run_config import RunConfig
from hierlm.costs.stage_cut import StageCut
from hierlm.parallel.config import ParallelConfig
from hierlm.plan import devices
from hierlm.plan.device import LINK_SHARE, MOVES, PRODUCT_SHARE
from hierlm.plan.estimate import Estimate, Estimator, PhaseEstimate
from hierlm.plan.layouts import changes
from hierlm.plan.search import Scaling, Tell, fastest, nearest_that_fit, scaling

SHOWN = 5
"""Alternative layouts."""

NOT_MODELLED = (
    "what torch.compile and CUDA graphs save; how much faster or slower a kernel is at its own shape; the waiting of "
    "an LSTM's steps for each other",
    "the latency of messages, which many small ones are made of, as ZeRO 3's of small layers; what messages take from "
    "the work beside them; congestion, slow nodes; data loading, evaluation, checkpoints, tracking",
    "workspace inside kernels, the allocator's gaps, the context, NCCL's buffers: the share of memory left for them",
    "what an evaluation with recurrent memory keeps beside the training memories",
    "a shorten factor drawn per step (that of the first step is taken); batched products that selective recompute "
    "makes again",
    "what sequence parallelism gathers where two stages share a stretch of blocks; the host's memory and the "
    "transfers of offloading",
    "reading a checkpoint and converting one to another layout",
)

REAL_ROWS = (
    "shapes of this model depend on the data: its memory is that of one row of random tokens times the rows, with "
    "a CPU's kernels"
)


@dataclass(frozen=True)
class Plan:
    """The layout of a config on a device, and others."""

    config: RunConfig[Any]
    num_parameters: int
    estimate: Estimate
    num_alternative_devices: int
    alternatives: tuple[Estimate, ...]  # ranked by the predicted time of the whole run
    is_search: bool
    scaling: Scaling | None  # of a search that found something
    not_modelled: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As plain data for --json; bytes and seconds."""
        estimate = self.estimate
        return {
            "run": self.config.name,
            "arch": self.config.model.arch,
            "precision": self.config.train.precision,
            "parameters": self.num_parameters,
            "world_size": estimate.layout.world_size,
            "device": _device(estimate),
            "fits": estimate.fits,
            **_estimate(estimate, self.config.parallel),
            "stage_cut": _cut(estimate.cut, estimate.uniform_cut),
            "phases": [_phase(phase) for phase in estimate.phases],
            "alternatives": {
                "world_size": self.num_alternative_devices,
                "layouts": [_estimate(each, self.config.parallel) for each in self.alternatives],
                "scaling": None if self.scaling is None else {**asdict(self.scaling), "helps": self.scaling.helps},
            },
            "not_modelled": list(self.not_modelled),
        }


def make_plan(config: RunConfig[Any], *, device_name: str, search: int | None = None, tell: Tell | None = None) -> Plan:
    """The plan of a run; with `search` also the fastest layouts of so many devices.

    Without, others are looked for only when the config's own does not fit. `tell` hears how a search gets on. UserError
    when no layout obeys the rules.
    """
    layout: ParallelConfig = config.parallel
    device = devices.device(device_name, processes=search or layout.world_size)
    estimator = Estimator(config, device)
    estimate = estimator.estimate(layout)
    num_devices, others = 0, []
    if search is not None:
        num_devices, others = search, fastest(estimator, num_devices=search, most=SHOWN, tell=tell)
    elif not estimate.fits:
        num_devices, others = nearest_that_fit(estimator, layout, most=SHOWN, tell=tell)
    return Plan(
        config=config,
        num_parameters=sum(cost.parameters for cost in estimator.cut_costs),
        estimate=estimate,
        num_alternative_devices=num_devices,
        alternatives=tuple(others),
        is_search=search is not None,
        scaling=scaling(estimator, others[0], tell=tell) if search is not None and others else None,
        not_modelled=(*NOT_MODELLED, *([REAL_ROWS] if estimator.is_extrapolated else [])),
    )


def _device(estimate: Estimate) -> dict[str, Any]:
    constants = {
        "product_share": PRODUCT_SHARE,
        "moves_of_made_bytes": MOVES,
        "usable_memory_bytes": estimate.usable_bytes,
        "link_share": LINK_SHARE,
    }
    return {**asdict(estimate.device), **constants}


def _estimate(estimate: Estimate, asked: ParallelConfig) -> dict[str, Any]:
    phases = estimate.phases
    return {
        "layout": estimate.layout.model_dump(mode="json"),
        "changes": changes(asked, estimate.layout),
        "peak_bytes": estimate.peak_bytes,
        "step_seconds": [phase.time.total for phase in phases],
        "mfu": [phase.mfu for phase in phases],
        "run_seconds": estimate.seconds,
    }


def _cut(cut: StageCut, uniform: StageCut) -> dict[str, Any]:
    return {
        "boundaries": list(cut.boundaries),
        "stage_costs": list(cut.stage_costs),
        "imbalance": cut.imbalance,
        "uniform_imbalance": uniform.imbalance,
    }


def _phase(each: PhaseEstimate) -> dict[str, Any]:
    return {
        "name": each.phase.name,
        "sequence_length": each.phase.sequence_length,
        "global_batch_size": each.phase.global_batch_size,
        "micro_batch_size": each.micro_batch_size,
        "micro_batches": each.micro_batches,
        "flops_per_token": asdict(each.flops),
        "bubble_fraction": bubble_fraction(len(each.stages), each.micro_batches),
        "stages": _stages(each),
        "time": each.time.document(),
        "tokens_per_second": each.tokens_per_second,
        "mfu": each.mfu,
    }


def _stages(each: PhaseEstimate) -> Sequence[dict[str, Any]]:
    pairs = zip(each.stages, each.traffic, strict=True)
    return [{**stage.document(), "sent_bytes_per_step": flow.document()} for stage, flow in pairs]


def bubble_fraction(num_stages: int, micro_batches: int) -> float:
    """Share of a step in which a stage of an even 1F1B pipeline waits."""
    return (num_stages - 1) / (micro_batches + num_stages - 1)
