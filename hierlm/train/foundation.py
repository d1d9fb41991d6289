"""What stands of an attempt before its run directory is touched: data, checks, model and engine, rehearsed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_pipeline.read.loader import Split, TrainRows
from data_pipeline.read.split import lossy_note
from hierlm.config.run_config import RunConfig
from hierlm.models.assembly import is_recurrent
from hierlm.parallel.engine import Engine
from hierlm.parallel.messages import team_of
from hierlm.parallel.process import ProcessInfo
from hierlm.phases.timeline import Timeline
from hierlm.run_dir import RunDir
from hierlm.train.course import Course
from hierlm.train.determinism import set_determinism
from hierlm.train.environment import check_environment
from hierlm.train.loaded_inputs import require_inputs, wants_documents
from hierlm.train.record.console import Console
from hierlm.train.record.device_memory import DeviceMemory
from hierlm.train.record.recorder import Recorder
from hierlm.train.record.start_up import StartUp
from hierlm.train.rehearsal import rehearse
from hierlm.train.watch.shards import Shards
from hierlm.train.watch.signals import StopRequest


@dataclass(frozen=True)
class Foundation:
    """What stands before the run directory is touched; the rest is made from it."""

    run_dir: RunDir
    config: RunConfig[Any]
    timeline: Timeline
    rows: TrainRows
    engine: Engine
    console: Console
    stop: StopRequest
    memory: DeviceMemory
    recorder: Recorder
    shards: Shards

    @property
    def process(self) -> ProcessInfo:
        return self.engine.process

    @property
    def course(self) -> Course:
        """What every part that follows the steps is given."""
        return Course(self.config, self.timeline, self.recorder, self.console)


def lay_foundation(
    run_dir: RunDir,
    config: RunConfig[Any],
    *,
    process: ProcessInfo,
    console: Console,
    stop: StopRequest,
    start_up: StartUp,
) -> Foundation:
    """Data, checks of the machine, model and engine, and a rehearsal of every phase's shapes."""
    set_determinism(config.train.deterministic)
    timeline = Timeline(config.phases, contiguous_lanes=is_recurrent(config.model))
    require_inputs(config.model)
    documents = wants_documents(config.model)
    rows = TrainRows(config.data.weighted_sources, seed=config.seed, document_starts=documents)
    shards = Shards(config.data, process=process, team=team_of())
    shards.look(stop, say=console.say)
    memory = DeviceMemory(process.device)
    console.say(_opening(config, timeline, rows.splits))
    for split in rows.splits:
        if split.index.lossy:
            console.say(lossy_note(split.directory))
    for warning in check_environment(process, team=team_of(), tensor_degree=config.parallel.tensor_parallel_degree):
        console.say(warning)
    start_up.done("data and checks")
    engine = Engine(config, process=process)
    start_up.done("model and engine")
    rehearse(engine, timeline, console=console)
    start_up.done("rehearsal")
    return Foundation(run_dir, config, timeline, rows, engine, console, stop, memory, Recorder(), shards)


def _opening(config: RunConfig[Any], timeline: Timeline, splits: Sequence[Split]) -> str:
    layout = config.parallel
    return (
        f"{config.name}: {config.model.arch}, {timeline.num_steps} steps, {timeline.num_tokens:,} tokens of "
        f"{sum(split.num_tokens for split in splits):,} | data {layout.data_parallel_degree} x tensor "
        f"{layout.tensor_parallel_degree} x pipeline {layout.pipeline_parallel_degree}, ZeRO {layout.zero_stage}, "
        f"{config.train.precision}"
    )
