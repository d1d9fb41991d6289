"""Between the loop and the checkpoint room: what is saved, and where a run goes on."""

from pathlib import Path
from time import perf_counter, time
from typing import Any

import torch.distributed as dist

from hierlm.checkpoint.commit import SaveError, save_checkpoint
from hierlm.checkpoint.files import FileRecord, FileWriter
from hierlm.checkpoint.find import CheckpointRef, newest_good
from hierlm.checkpoint.manifest import Facts, Layout, Why
from hierlm.checkpoint.recurrent import read_recurrent_states, write_recurrent_state
from hierlm.checkpoint.team import Team
from hierlm.checkpoint.universal import universal_of
from hierlm.config.run_config import RunConfig
from hierlm.config.structure import fingerprint
from hierlm.parallel.engine import Engine
from hierlm.parallel.memory_lanes import LaneState
from hierlm.phases.timeline import Timeline
from hierlm.run_dir import RunDir
from hierlm.train.console import Console
from hierlm.train.recorder import Recorder


class Checkpointer:
    """Saves and resumes one run on all ranks together."""

    def __init__(
        self,
        run_dir: RunDir,
        *,
        config: RunConfig[Any],
        timeline: Timeline,
        engine: Engine,
        recorder: Recorder,
        console: Console,
    ) -> None:
        self._run_dir, self._config, self._timeline = run_dir, config, timeline
        self._engine, self._recorder, self._console = engine, recorder, console
        self._team = Team(engine.process.rank, engine.process.world_size, _exchange)
        self.last_saved_step = 0

    def resume(self) -> int:
        """Load the newest good checkpoint, if any; the number of steps it holds."""
        found = newest_good(self._run_dir.checkpoints, report=self._console.say, team=self._team)
        if found is None:
            return 0
        started = perf_counter()
        self._load(found)
        self.last_saved_step = found.step
        self._console.say(f"resumed from {found.path} (step {found.step}, {perf_counter() - started:.1f} s)")
        return found.step

    def save(self, step: int, *, why: Why) -> None:
        """Commit the state after `step` steps; a failed save is said and the run goes on, unless it was the last."""
        try:
            saved = save_checkpoint(
                self._run_dir.checkpoints,
                facts=self._facts(step, why=why),
                write=lambda partial: self._write(partial, step=step),
                team=self._team,
                keep=self._config.checkpoint.keep,
            )
        except SaveError as error:
            if why in ("final", "stop"):
                raise
            self._console.say(f"warning: {error}")
            return
        self.last_saved_step = step
        self._recorder.record({"kind": "save", "step": step, "save_seconds": saved.seconds, "time": time()})
        size = saved.size_bytes / 2**20
        self._console.say(f"checkpoint step {step} | {why} | {size:,.1f} MiB | {saved.seconds:.2f} s | {saved.path}")

    def _load(self, found: CheckpointRef) -> None:
        wanted = Layout.of(self._config.parallel)
        if found.manifest.layout == wanted:
            self._engine.load(found.path)
        else:
            self._console.say(f"converting step {found.step} from {found.manifest.layout} to {wanted}")
            self._engine.load_converted(universal_of(found, progress=_no_progress, team=self._team))
        states = [LaneState(*state) for state in read_recurrent_states(found.path)]
        if states:
            self._engine.restore_recurrent_state(states, phase=self._timeline.at(found.step - 1).phase)

    def _write(self, partial: Path, *, step: int) -> dict[str, FileRecord]:
        files = FileWriter(partial)
        self._engine.save(partial, client_state={"iteration": step}, open_file=files.open)
        state = self._engine.recurrent_state()
        if state is not None:
            write_recurrent_state(partial, state, rank=self._engine.process.rank)
        return files.records

    def _facts(self, step: int, *, why: Why) -> Facts:
        last = self._timeline.at(step - 1)
        return Facts(
            step=step,
            tokens_seen=self._timeline.tokens_after(step),
            phase=last.phase.name,
            step_in_phase=last.step_in_phase + 1,
            layout=Layout.of(self._config.parallel),
            precision=self._config.train.precision,
            config_fingerprint=fingerprint(self._config),
            why=why,
        )


def _no_progress(done: int, of: int) -> None:
    """Too quick to tell."""


def _exchange(value: Any) -> list[Any]:
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
