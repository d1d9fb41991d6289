"""The only wiring: from a run directory to everything one attempt needs."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch.distributed as dist

from data_pipeline.check.run import evaluation_problems
from data_pipeline.errors import DataError
from data_pipeline.read.loader import MixtureChange, Request, open_split
from data_pipeline.read.prefetch import Prefetcher
from data_pipeline.read.split import can_be_evaluated
from hierlm import plugins
from hierlm.config.load import load_run_config
from hierlm.config.run_config import RunConfig
from hierlm.costs.flops import flops_per_token
from hierlm.lease import Lease, take
from hierlm.models.assembly import is_recurrent
from hierlm.objectives import objective
from hierlm.objectives.batch import Batch, Drawn
from hierlm.parallel.messages import team_of
from hierlm.parallel.process import ProcessInfo
from hierlm.phases.timeline import Moment
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import MetricsFile, read_records
from hierlm.tracking.open import open_tracker
from hierlm.tracking.system import SystemSampler
from hierlm.tracking.tracker import FinalState
from hierlm.train.checkpointing import Checkpointer
from hierlm.train.evaluation import Evaluation, Share
from hierlm.train.first_weights import RECORD, begin_with_first_weights, recorded
from hierlm.train.foundation import Foundation, lay_foundation
from hierlm.train.hooks import CheckpointHook, EvaluationHook, LogHook, is_logged
from hierlm.train.loaded_inputs import wants_documents
from hierlm.train.loop import Hook
from hierlm.train.mixture_evaluation import MixtureEvaluation
from hierlm.train.record.attempts import record_start
from hierlm.train.record.console import Console
from hierlm.train.record.gradient_norms import GradientNormsHook
from hierlm.train.record.profile import ProfileHook
from hierlm.train.record.start_up import StartUp, StartUpHook
from hierlm.train.record.throughput import device_peak
from hierlm.train.skipped_steps import SkippedStepsHook
from hierlm.train.watch.heartbeat import HeartbeatWriter
from hierlm.train.watch.shards import ShardsHook
from hierlm.train.watch.signals import StopRequest
from hierlm.train.watch.wiring import HeartbeatHook, start_heartbeat

ENDS_AT = "HIERLM_JOB_ENDS_AT"
"""When the job's time limit falls, seconds since 1970: set by slurm/train.sh."""

PARTS_A_STAGE = 4
"""Micro-batches of an evaluation's pass for each stage of a pipeline."""


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
    batches = _batches(base, first_step=first_step)
    heartbeat = _start_heartbeat(base, lease=lease, checkpointer=checkpointer)
    evaluation = EvaluationHook(base.course, evaluation=_evaluation(base, heartbeat))
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
        catch_up=lambda: _catch_up(base, evaluation, step=first_step),
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
        units_of=partial(_units_of_step, base),
        wait_seconds=lambda: batches.wait_seconds,
        seen_before_update=lambda step: {n: norm for hook in gradient_norms for n, norm in hook.take(step).items()},
    )


def _units_of_step(base: Foundation, loss: float, moment: Moment) -> dict[str, float]:
    """By the bytes of the sources that this step's rows, those of all ranks, were drawn from."""
    request = _request(base, moment, rows=range(moment.phase.global_batch_size))
    drawn = Drawn(base.rows.tokens_per_byte(request), base.rows.splits[0].kind)
    units: dict[str, float] = objective(base.config.objective.name).units(loss, drawn)
    return units


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


def _evaluation(base: Foundation, heartbeat: HeartbeatWriter) -> MixtureEvaluation:
    """The valid split of every source, shared out over data-parallel ranks."""
    config, engine = base.config, base.engine
    paths = [source.path for source in config.data.weighted_sources]
    problems = evaluation_problems(paths, {phase.name: config.source_weights(phase) for phase in config.phases})
    if problems:
        raise DataError(problems)

    def stopped() -> bool:
        heartbeat.mark("evaluating")
        return base.stop.agreed(engine.process.device)

    share = Share(
        dp_rank=engine.dp_rank,
        dp_degree=engine.dp_degree,
        add_up=engine.global_sum,
        stopped=stopped,
        forget_reports=engine.forget_reports,
        reports=engine.evaluation_reports,
    )
    lanes = config.phases[0].global_batch_size  # the result may not depend on the layout: memory starts anew per lane
    recurrent = is_recurrent(config.model)
    rows_per_pass = lanes if recurrent else engine.dp_degree * rows_of_a_pass(config)

    def evaluation_of(path: str) -> Evaluation | None:
        if not can_be_evaluated(path, "valid"):
            base.console.say(f"{path}: no valid split, so it is left out of the evaluation, which is of the others")
            return None
        return Evaluation(
            open_split(path, "valid"),
            score=engine.evaluate,
            rows_per_pass=rows_per_pass,
            is_recurrent=recurrent,
            document_starts=wants_documents(config.model),
            objective=config.objective,
            seed=config.seed,
            share=share,
        )

    return MixtureEvaluation(dict(zip(config.data.source_names, map(evaluation_of, paths), strict=True)))


def rows_of_a_pass(config: RunConfig[Any]) -> int:
    """What a data-parallel rank evaluates at once without memory: a micro-batch; of several stages as many as let
    them lie idle for a fifth of the time, but no more than are asked for."""
    layout = config.parallel
    rows = layout.micro_batch(global_batch_size=config.phases[0].global_batch_size)
    if layout.pipeline_parallel_degree == 1:
        return rows
    wanted = config.train.eval_rows or sys.maxsize
    needed = -(-wanted // (rows * layout.data_parallel_degree))
    return rows * min(PARTS_A_STAGE * layout.pipeline_parallel_degree, needed)


def _batches(base: Foundation, *, first_step: int) -> Prefetcher[Batch]:
    """This rank's rows of every step from `first_step` on, read ahead."""
    engine, timeline = base.engine, base.timeline

    def requests() -> Iterator[Request]:
        for step in range(first_step, timeline.num_steps):
            moment = timeline.at(step)
            yield _request(base, moment, rows=engine.local_rows(moment.phase.global_batch_size))

    asked, chosen = objective(base.config.objective.name), base.config.objective

    def read(request: Request) -> Batch:
        batch: Batch = asked.batch(base.rows.rows(request), chosen, seed=base.config.seed)
        return batch

    return Prefetcher(read, requests(), base.config.data.prefetch_batches, device=engine.process.device)


def _request(base: Foundation, moment: Moment, *, rows: range) -> Request:
    """Some rows of one step."""
    phase, own_weights = moment.phase, tuple(source.weight for source in base.config.data.weighted_sources)
    lanes = phase.global_batch_size if base.timeline.contiguous_lanes else None
    mixture = tuple(MixtureChange(first, weights or own_weights) for first, weights in moment.data_weights)
    return Request(phase.sequence_length, moment.data_pass, moment.first_sample, rows, lanes, mixture)


def _catch_up(base: Foundation, evaluation: EvaluationHook, *, step: int) -> None:
    """Make the evaluation of the step gone on from, if the attempt before did not get to its end.

    Weights of another training are evaluated before the first step, too: that is what training starts from.
    """
    due = evaluation.is_due(step) if step else base.config.init_from is not None
    if not due:
        return
    missing = [not _has_evaluation(base.run_dir, step=step)]
    dist.broadcast_object_list(missing, src=0)
    if missing[0]:
        evaluation.evaluate(step)


def _has_evaluation(run_dir: RunDir, *, step: int) -> bool:
    records = read_records(run_dir.metrics)
    return any(r.get("kind") == "eval" and r["step"] == step and r.get("split") == "valid" for r in records)
