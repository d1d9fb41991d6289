"""One attempt at a run on this process, from joining the group to the exit code."""

import traceback
from collections.abc import Sequence

from hierlm.exit_codes import STOPPED
from hierlm.lease import TakenOverError
from hierlm.parallel.process import start_processes, stop_processes
from hierlm.run_dir import RunDir
from hierlm.train.cpu_memory import keep_freed_blocks
from hierlm.train.finish import mark_finished, require_finite_end, write_run_summary
from hierlm.train.loop import train
from hierlm.train.record.attempts import record_end
from hierlm.train.record.console import Console
from hierlm.train.record.start_up import StartUp
from hierlm.train.setup import Attempt, set_up
from hierlm.train.watch.signals import StopRequest


def run(
    run_dir: RunDir,
    *,
    console: Console,
    until_phase: str | None = None,
    overrides: Sequence[str] = (),
    start_up: StartUp | None = None,
) -> int:
    """Train to the end, the end of a phase, or the first agreed stop request; 0, 0 or 85.

    LostRunError when training cannot go on, or the last save of this attempt has failed.
    TakenOverError when another attempt has begun. `overrides` change the run's config for this attempt only. `start_up`
    is a clock that began before the imports.
    """
    stop = StopRequest()
    start_up = start_up or StartUp()
    start_up.done("imports")
    keep_freed_blocks()
    process = start_processes(run_dir)
    start_up.done("process group")
    # not before: a signal then ends every process at once, whereas one that merely noted it would wait for the others
    stop.install()
    attempt = set_up(run_dir, overrides=overrides, process=process, console=console, stop=stop, start_up=start_up)
    try:
        return _train_and_finish(attempt, until_phase=until_phase)
    except TakenOverError:
        raise  # the run and its tracker belong to another attempt: nothing is said there
    except BaseException as error:
        attempt.checkpointer.wait_after_failure()
        if _end(attempt, why=f"failed ({type(error).__name__}: {error})"):
            attempt.close("FAILED")
        raise
    finally:
        attempt.batches.close()
        attempt.base.shards.close()
        stop_processes()


def _train_and_finish(attempt: Attempt, *, until_phase: str | None) -> int:
    until_step = attempt.base.timeline.end_of(until_phase) if until_phase else attempt.base.timeline.num_steps
    attempt.catch_up()
    attempt.base.console.start_bar(total_steps=attempt.base.timeline.num_steps, completed=attempt.first_step)
    outcome = train(
        engine=attempt.base.engine,
        timeline=attempt.base.timeline,
        batches=attempt.heartbeat.marking(attempt.batches, first_step=attempt.first_step),
        first_step=attempt.first_step,
        until_step=until_step,
        hooks=attempt.hooks,
        stop=attempt.base.stop,
    )
    attempt.base.console.close()
    attempt.checkpointer.wait()
    if outcome == "paused":
        attempt.checkpointer.require_saved(until_step)
        _end(attempt, why=f"finished phase {until_phase}")
        attempt.base.console.say(
            f"phase {until_phase} is finished (step {attempt.step}): the next job goes on from there"
        )
        attempt.close(None)
        return 0
    if outcome == "finished" and not attempt.base.stop.agreed(attempt.base.engine.process.device):
        require_finite_end(attempt)
        write_run_summary(attempt, status="finished")
        mark_finished(attempt)
        _end(attempt, why="finished")
        attempt.close("FINISHED")
        return 0
    write_run_summary(attempt, status="stopped")
    _end(attempt, why=f"stopped ({attempt.base.stop.signal_name})")
    attempt.base.console.say(
        f"stopped by {attempt.base.stop.signal_name} after step {attempt.step}: run it again to go on from there"
    )
    attempt.close("KILLED")
    return STOPPED


def _end(attempt: Attempt, *, why: str) -> bool:
    """Record the end; False when another attempt has the run, and with it the last word."""
    try:
        if attempt.is_writer:
            record_end(attempt.base.run_dir, lease=attempt.lease, last_step=attempt.step, why=why)
    except TakenOverError:
        return False
    except OSError:  # a full disk must not hide the error that ended the attempt
        traceback.print_exc()
    return True
