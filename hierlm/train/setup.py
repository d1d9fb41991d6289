"""The only wiring: from a run directory to everything one attempt needs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any

import torch.distributed as dist

from data_pipeline.loader import Prefetcher, Request, Split, TrainRows, open_split
from hierlm.config.load import load_config
from hierlm.config.run_config import RunConfig
from hierlm.models.assembly import is_recurrent
from hierlm.parallel.engine import Engine
from hierlm.parallel.process import ProcessInfo
from hierlm.phases.timeline import Timeline
from hierlm.plan.flops import flops_per_token
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import MetricsFile, read_records
from hierlm.tracking.open import open_tracker
from hierlm.tracking.system import SystemSampler
from hierlm.tracking.tracker import FinalState
from hierlm.train.attempts import record_start
from hierlm.train.checkpointing import Checkpointer
from hierlm.train.console import Console
from hierlm.train.determinism import set_determinism
from hierlm.train.device_memory import DeviceMemory
from hierlm.train.evaluation import Evaluation, Share, bits_per_byte
from hierlm.train.hooks import CheckpointHook, EvaluationHook, LogHook
from hierlm.train.loop import Hook
from hierlm.train.recorder import Recorder
from hierlm.train.rehearsal import rehearse
from hierlm.train.signals import StopRequest
from hierlm.train.throughput import Peak, device_peak


@dataclass
class Attempt:
    """Everything one attempt holds on this process. `number` is None on every rank but the writer, rank 0."""

    run_dir: RunDir
    config: RunConfig[Any]
    timeline: Timeline
    engine: Engine
    console: Console
    stop: StopRequest
    first_step: int
    batches: Prefetcher
    hooks: Sequence[Hook]
    checkpointer: Checkpointer
    memory: DeviceMemory
    peak: Peak
    number: int | None
    catch_up: Callable[[], None]
    recorder: Recorder
    sampler: SystemSampler | None  # on the first process of each node

    @property
    def step(self) -> int:
        """Completed optimizer steps in the newest checkpoint: what a next attempt starts from."""
        return self.checkpointer.last_saved_step

    def close(self, state: FinalState | None) -> None:
        """Flush what is recorded and set the run's state at the tracker; None: it goes on in another attempt."""
        if self.sampler is not None:
            self.sampler.stop()
        self.recorder.finish(state)


def set_up(
    run_dir: RunDir,
    *,
    overrides: Sequence[str],
    process: ProcessInfo,
    console: Console,
    stop: StopRequest,
    started: float,
) -> Attempt:
    """Build the model, load the newest checkpoint, open data, metrics and tracker."""
    config = load_config(run_dir.config, overrides)
    set_determinism(config.train.deterministic)
    timeline = Timeline(config.phases, contiguous_lanes=is_recurrent(config.model))
    rows = TrainRows(config.data.weighted_sources, seed=config.seed)
    memory, peak = DeviceMemory(process.device), device_peak(process.device, precision=config.train.precision)
    console.say(_opening(config, timeline, rows.splits))
    engine = Engine(config, process=process)
    rehearse(engine, timeline, console=console)
    recorder = Recorder()
    checkpointer = Checkpointer(
        run_dir, config=config, timeline=timeline, engine=engine, recorder=recorder, console=console
    )
    first_step = checkpointer.resume()
    number = _open_records(recorder, run_dir, config, first_step=first_step, process=process, console=console)
    batches = _batches(rows, config, timeline, engine, first_step=first_step)
    tokens_per_byte = rows.splits[0].num_tokens / rows.splits[0].source_bytes
    evaluation = EvaluationHook(
        config=config,
        timeline=timeline,
        evaluation=_evaluation(config, engine, stop),
        recorder=recorder,
        console=console,
    )
    log = LogHook(
        config=config,
        timeline=timeline,
        engine=engine,
        recorder=recorder,
        console=console,
        memory=memory,
        peak=peak,
        flops_per_token=cache(lambda length: flops_per_token(config.model, length)),
        bits_per_byte_of=lambda loss: bits_per_byte(loss, tokens_per_byte=tokens_per_byte),
        wait_seconds=lambda: batches.wait_seconds,
    )
    checkpoints = CheckpointHook(config=config, timeline=timeline, save=checkpointer.save, last_saved=first_step)
    console.say(f"ready after {perf_counter() - started:.1f} s")
    return Attempt(
        run_dir=run_dir,
        config=config,
        timeline=timeline,
        engine=engine,
        console=console,
        stop=stop,
        first_step=first_step,
        batches=batches,
        hooks=(log, evaluation, checkpoints),
        checkpointer=checkpointer,
        memory=memory,
        peak=peak,
        number=number,
        catch_up=lambda: _catch_up(run_dir, evaluation, step=first_step),
        recorder=recorder,
        sampler=SystemSampler(run_dir, node=process.node) if process.local_rank == 0 else None,
    )


def _opening(config: RunConfig[Any], timeline: Timeline, splits: Sequence[Split]) -> str:
    layout = config.parallel
    return (
        f"{config.name}: {config.model.arch}, {timeline.num_steps} steps, {timeline.num_tokens:,} tokens of "
        f"{sum(split.num_tokens for split in splits):,} | data {layout.data_parallel_degree} x tensor "
        f"{layout.tensor_parallel_degree} x pipeline {layout.pipeline_parallel_degree}, ZeRO {layout.zero_stage}, "
        f"{config.train.precision}"
    )


def _open_records(
    recorder: Recorder,
    run_dir: RunDir,
    config: RunConfig[Any],
    *,
    first_step: int,
    process: ProcessInfo,
    console: Console,
) -> int | None:
    """Open metrics and tracker on the writer rank; the attempt's number there, None on the others."""
    if process.rank != 0:
        return None
    layout = config.parallel.model_dump()
    number = record_start(run_dir, layout=layout, first_step=first_step)
    metrics = MetricsFile(run_dir.metrics)
    metrics.truncate_after(step=first_step)
    tracker = open_tracker(
        config.tracking,
        run_dir,
        run_config_flat=config.model_dump(mode="json"),
        attempt=number,
        report=console.say,
    )
    recorder.open(metrics, tracker)
    return number


def _evaluation(config: RunConfig[Any], engine: Engine, stop: StopRequest) -> Evaluation:
    """The valid split of the first source, shared out over data-parallel ranks."""
    share = Share(
        dp_rank=engine.dp_rank,
        dp_degree=engine.dp_degree,
        add_up=engine.global_sum,
        stopped=lambda: stop.agreed(engine.process.device),
    )
    lanes = config.phases[0].global_batch_size  # the result may not depend on the layout: memory starts anew per lane
    recurrent = is_recurrent(config.model)
    return Evaluation(
        open_split(config.data.weighted_sources[0].path, "valid"),
        score=engine.evaluate,
        rows_per_pass=lanes if recurrent else engine.dp_degree * config.parallel.micro_batch(global_batch_size=lanes),
        is_recurrent=recurrent,
        share=share,
    )


def _batches(
    rows: TrainRows, config: RunConfig[Any], timeline: Timeline, engine: Engine, *, first_step: int
) -> Prefetcher:
    """This rank's rows of every step from `first_step` on, read ahead."""

    def requests() -> Iterator[Request]:
        for step in range(first_step, timeline.num_steps):
            moment = timeline.at(step)
            phase = moment.phase
            local = engine.local_rows(phase.global_batch_size)
            lanes = phase.global_batch_size if timeline.contiguous_lanes else None
            yield Request(phase.sequence_length, moment.data_pass, moment.first_sample, local, lanes)

    pin = engine.process.device.type == "cuda"
    return Prefetcher(rows, requests(), config.data.prefetch_batches, pin_memory=pin)


def _catch_up(run_dir: RunDir, evaluation: EvaluationHook, *, step: int) -> None:
    """Make the evaluation of the step resumed from, if the attempt before did not get to its end."""
    if step == 0 or not evaluation.is_due(step):
        return
    missing = [not _has_evaluation(run_dir, step=step)]
    dist.broadcast_object_list(missing, src=0)
    if missing[0]:
        evaluation.evaluate(step)


def _has_evaluation(run_dir: RunDir, *, step: int) -> bool:
    records = read_records(run_dir.metrics)
    return any(r.get("kind") == "eval" and r["step"] == step and r["split"] == "valid" for r in records)
