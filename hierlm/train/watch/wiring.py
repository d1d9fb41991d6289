"""The wiring of heartbeats: who is told of a hang or a slow rank, and where a rank gets on."""

from collections.abc import Callable
from shutil import rmtree
from time import perf_counter

from hierlm.lease import Lease, TakenOverError
from hierlm.parallel.process import ProcessInfo
from hierlm.run_dir import RunDir
from hierlm.train.loop import Completed
from hierlm.train.record.attempts import record_end
from hierlm.train.record.console import Console
from hierlm.train.record.recorder import Recorder
from hierlm.train.watch.heartbeat import HeartbeatWriter
from hierlm.train.watch.node_beats import node_folder
from hierlm.train.watch.slow_ranks import PROBE_EVERY_SECONDS, SlowRanks, probe

PATIENCE_FOR_A_SAVE = 4.0
"""Times `train.hang_after_seconds`: a checkpoint on a busy file system is not to be given up lightly."""


def start_heartbeat(
    run_dir: RunDir,
    *,
    process: ProcessInfo,
    lease: Lease,
    hang_after_seconds: float | None,
    last_step: Callable[[], int],
    recorder: Recorder,
    console: Console,
) -> HeartbeatWriter:
    """This rank's, in the folder of this attempt; `last_step` is that of the newest checkpoint."""
    folder = run_dir.heartbeats / str(lease.generation)
    if process.rank == 0 and run_dir.heartbeats.exists():
        for earlier in run_dir.heartbeats.iterdir():
            if earlier.name != folder.name:
                rmtree(earlier, ignore_errors=True)

    def on_hang(who: str) -> None:
        what = f"no progress for {hang_after_seconds:g} s: {who}"
        console.say_from_any_rank(f"{what}; what each rank was doing: {run_dir.logs}/rank-*.log")
        try:
            record_end(run_dir, lease=lease, last_step=last_step(), why=f"failed ({what})")
        except (OSError, TakenOverError):
            return  # it is in the log

    return HeartbeatWriter(
        folder,
        node_folder=node_folder(run=str(run_dir.path.absolute()), attempt=lease.claim, node=process.node),
        rank=process.rank,
        hang_after_seconds=hang_after_seconds,
        on_hang=on_hang,
        before_exit=lambda: recorder.finish("FAILED"),
    )


class HeartbeatHook:
    """Marks the end of each step; now and then times this rank's device, and on rank 0 looks for slow ones."""

    def __init__(self, heartbeat: HeartbeatWriter, *, process: ProcessInfo, console: Console) -> None:
        self._heartbeat, self._process, self._console = heartbeat, process, console
        self._slow, self._probed = SlowRanks(), perf_counter()

    def before_step(self) -> None:
        """The batches mark it."""

    def after_step(self, completed: Completed) -> None:
        self._heartbeat.mark("ending a step", step=completed.step, patience=PATIENCE_FOR_A_SAVE)
        if perf_counter() - self._probed < PROBE_EVERY_SECONDS:
            return
        self._heartbeat.probe_seconds, self._probed = probe(self._process.device), perf_counter()
        if self._process.rank == 0:
            for line in self._slow.observe(self._heartbeat.heard()):
                self._console.say(line)

    def on_stop(self, *, step: int) -> None:
        self._heartbeat.mark("stopping", step=step, patience=PATIENCE_FOR_A_SAVE)
