"""The only wiring: from a run directory to everything one attempt needs."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch.distributed as dist

from data_pipeline.read.prefetch import Prefetcher
from hierlm import plugins
from hierlm.config.load import load_run_config
from hierlm.costs.flops import flops_per_token
from hierlm.lease import Lease, take
from hierlm.objectives.batch import Batch
from hierlm.parallel.messages import team_of
from hierlm.parallel.process import ProcessInfo
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import MetricsFile
from hierlm.tracking.open import open_tracker
from hierlm.tracking.system import SystemSampler
from hierlm.tracking.tracker import FinalState
from hierlm.train.checkpointing import Checkpointer
from hierlm.train.first_weights import RECORD, begin_with_first_weights, recorded
from hierlm.train.foundation import Foundation, lay_foundation
from hierlm.train.hooks import CheckpointHook, EvaluationHook, LogHook, is_logged
from hierlm.train.loop import Hook
from hierlm.train.record.attempts import record_start
from hierlm.train.record.console import Console
from hierlm.train.record.gradient_norms import GradientNormsHook
from hierlm.train.record.profile import ProfileHook
from hierlm.train.record.start_up import StartUp, StartUpHook
from hierlm.train.record.throughput import device_peak
from hierlm.train.skipped_steps import SkippedStepsHook
from hierlm.train.step_rows import read_ahead, units_of_step
from hierlm.train.valid_splits import catch_up, valid_evaluation
from hierlm.train.watch.heartbeat import HeartbeatWriter
from hierlm.train.watch.shards import ShardsHook
from hierlm.train.watch.signals import StopRequest
from hierlm.train.watch.wiring import HeartbeatHook, start_heartbeat

ENDS_AT = "HIERLM_JOB_ENDS_AT"
"""When the job's time limit falls, seconds since 1970: set by slurm/train.sh."""


@dataclass(frozen=True)
class Attempt:
    """Everything one attempt holds on this process."""

    base: Foundation
    first_step: int
    batches: Prefetcher[Batch]
    hooks: Sequence[Hook]
    checkpointer: Checkpointer
    lease: Lease
    catch_up: Callable[[], None]
    heartbeat: HeartbeatWriter
    sampler: SystemSampler | None  # on the first process of each node

    @property
    def step(self) -> int:
        """Completed optimizer steps in the newest checkpoint: what a next attempt starts from."""
        return self.checkpointer.last_saved_step

    @property
    def is_writer(self) -> bool:
        """Whether this rank writes what belongs to the run as a whole."""
        return self.base.engine.process.rank == 0

    def close(self, state: FinalState | None) -> None:
        """Flush what is recorded and set the run's state at the tracker; None: it goes on in another attempt."""
        self.heartbeat.stop()
        if self.sampler is not None:
            self.sampler.stop()
        self.base.recorder.finish(state)


def set_up(
    run_dir: RunDir,
    *,
    overrides: Sequence[str],
    process: ProcessInfo,
    console: Console,
    stop: StopRequest,
    start_up: StartUp,
) -> Attempt:
    """Build the model, load the newest checkpoint, open data, metrics and tracker."""
    config = load_run_config(run_dir.config, overrides)
    for change in plugins.changes():
        console.say(change)
    base = lay_foundation(run_dir, config, process=process, console=console, stop=stop, start_up=start_up)
    lease = _take_lease(base)  # late: an attempt that cannot even begin disturbs none
    checkpointer = Checkpointer(run_dir, base.course, rows=base.rows, engine=base.engine, lease=lease)
    first_step = checkpointer.resume()
    if first_step == 0:
        _take_first_weights(base)
    start_up.done("checkpoint")
    if ENDS_AT in os.environ:
        stop.end_in_time(float(os.environ[ENDS_AT]), margin_seconds=lambda: _margin(checkpointer.slowest_save_seconds))
    if process.rank == 0:
        _open_records(base, first_step=first_step, lease=lease, unproven=checkpointer.unproven)
    start_up.done("tracker")
    batches = read_ahead(base, first_step=first_step)
    heartbeat = _start_heartbeat(base, lease=lease, checkpointer=checkpointer)
    evaluation = EvaluationHook(base.course, evaluation=valid_evaluation(base, heartbeat))
    gradient_norms = _gradient_norms(base)
    hooks: Sequence[Hook] = (
        HeartbeatHook(heartbeat, process=process, console=console),
        _log_hook(base, batches, gradient_norms=gradient_norms),
        *gradient_norms,
        SkippedStepsHook(config=config, console=console),
        StartUpHook(start_up, recorder=base.recorder, console=console),
        *_profile(base, first_step=first_step),
        ShardsHook(base.shards, stop=stop, console=console, device=process.device),
        evaluation,
        CheckpointHook(config=config, timeline=base.timeline, checkpointer=checkpointer),
    )
    start_up.done("hooks")
    base.shards.go_on_beside(stop)
    console.say(f"ready after {start_up.total_seconds:.1f} s")
    return Attempt(
        base,
        first_step=first_step,
        batches=batches,
        hooks=hooks,
        checkpointer=checkpointer,
        lease=lease,
        catch_up=lambda: catch_up(base, evaluation, step=first_step),
        heartbeat=heartbeat,
        sampler=SystemSampler(run_dir, node=process.node, lease=lease) if process.local_rank == 0 else None,
    )


def _start_heartbeat(base: Foundation, *, lease: Lease, checkpointer: Checkpointer) -> HeartbeatWriter:
    return start_heartbeat(
        base.run_dir,
        process=base.process,
        lease=lease,
        hang_after_seconds=base.config.train.hang_after_seconds,
        last_step=lambda: checkpointer.last_saved_step,
        recorder=base.recorder,
        console=base.console,
    )


def _gradient_norms(base: Foundation) -> list[GradientNormsHook]:
    """None where they are not asked for: then nothing looks at gradients."""
    if not base.config.train.log_gradient_norms:
        return []
    return [
        GradientNormsHook(base.config.model, is_logged=partial(is_logged, config=base.config, timeline=base.timeline))
    ]


def _log_hook(base: Foundation, batches: Prefetcher[Batch], *, gradient_norms: Sequence[GradientNormsHook]) -> LogHook:
    return LogHook(
        base.course,
        memory=base.memory,
        peak=device_peak(base.process.device, precision=base.config.train.precision),
        flops_per_token=cache(partial(flops_per_token, base.config.model)),
        units_of=partial(units_of_step, base),
        wait_seconds=lambda: batches.wait_seconds,
        seen_before_update=lambda step: {n: norm for hook in gradient_norms for n, norm in hook.take(step).items()},
    )


def _profile(base: Foundation, *, first_step: int) -> list[ProfileHook]:
    """After the log, which waits for the device at the end of a step and should not count the writing of a trace."""
    wanted, process = base.config.train.profile, base.process
    if wanted is None:
        return []
    hook = ProfileHook(
        wanted,
        run_dir=base.run_dir,
        device=process.device,
        rank=process.rank,
        first_step=first_step,
        console=base.console,
    )
    return [hook]


def _margin(save_seconds: float) -> float:
    """What a last checkpoint may take: file systems are slowest when all jobs of a site end."""
    return 20.0 + 3.0 * save_seconds


def _take_lease(base: Foundation) -> Lease:
    """Taken by the writer rank, which watches it from now on; the same on all ranks."""
    shared: list[Lease | None] = [None]
    if base.process.rank == 0:
        run_dir = base.run_dir
        lease = take(run_dir.leases, sweep=(run_dir.path, run_dir.logs, run_dir.checkpoints))
        base.stop.watch(lease)
        shared = [lease]
    dist.broadcast_object_list(shared, src=0)
    assert shared[0] is not None
    return shared[0]


def _take_first_weights(base: Foundation) -> None:
    """Those of another training, where the config asks for them."""
    first, say = base.timeline.at(0), base.console.say
    begin_with_first_weights(base.config, base.run_dir, engine=base.engine, first=first, team=team_of(), say=say)


def _open_records(base: Foundation, *, first_step: int, lease: Lease, unproven: str | None) -> None:
    """Open metrics and tracker, on the writer rank."""
    run_dir, config = base.run_dir, base.config
    layout = config.parallel.model_dump()
    record_start(run_dir, lease=lease, layout=layout, first_step=first_step, unproven=unproven)
    metrics = MetricsFile(run_dir.metrics, lease=lease)
    metrics.truncate_after(step=first_step)
    tracker = open_tracker(
        config.tracking,
        run_dir,
        run_config_flat=_as_parameters(base),
        attempt=lease.generation,
        report=base.console.say,
        lease=lease,
    )
    base.recorder.open(metrics, tracker)


def _as_parameters(base: Foundation) -> dict[str, object]:
    """The config as a tracker shows it; of first weights also which they were."""
    plain = base.config.model_dump(mode="json")
    if base.config.init_from is None:
        return plain
    known = recorded(base.run_dir) or {}
    return {**plain, RECORD: {**plain[RECORD], **{key: known.get(key) for key in ("step", "sha256")}}}
