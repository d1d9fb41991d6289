"""The faults: each makes one attempt of a run end badly and says what the exit code may be."""

import os
import random
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hierlm.checkpoint.find import list_checkpoints
from hierlm.checkpoint.layout import CONVERTING, PARTIAL, UNIVERSAL, step_dir
from hierlm.exit_codes import FAILED, STOPPED, TAKEN_OVER, WRONG_INPUT
from tests.chaos.run import END_SECONDS, EVAL_EVERY, SAVE_EVERY, START_SECONDS, Attempt, Run, wait_until
from tests.end_to_end.attempts import attempt_elsewhere

FILLED_TO_BYTES = 200_000
"""What a full disk has left: less than a checkpoint needs."""


@dataclass(frozen=True)
class Strike:
    """What was done and how the attempt ended."""

    what: str
    exit_code: int
    expected: tuple[int, ...]
    costs_checkpoints: bool = False


Fault = Callable[[Run, random.Random], Strike | None]
"""None: the run was finished before the fault could strike."""


def kill_in_a_step(run: Run, draw: random.Random) -> Strike | None:
    return _kill_when(run, draw, some_steps_on(run, draw), "in a step")


def kill_in_an_evaluation(run: Run, draw: random.Random) -> Strike | None:
    return _kill_when(run, draw, _next_multiple(run, EVAL_EVERY), "in an evaluation", delay=draw.uniform(0, 0.05))


def kill_at_the_phase_boundary(run: Run, draw: random.Random) -> Strike | None:
    if run.last_step() >= run.boundary:
        return None
    return _kill_when(run, draw, run.boundary, "at the phase boundary", delay=draw.uniform(0, 0.1))


def kill_in_a_save(run: Run, draw: random.Random) -> Strike | None:
    attempt = run.start()
    attempt.wait_for_step(_next_multiple(run, SAVE_EVERY) - 1)
    attempt.wait_for(lambda: any(run.checkpoints.glob(f"*{PARTIAL}")))
    return _kill(attempt, draw, "in a save", delay=draw.uniform(0, 0.05))


def kill_in_a_reshape(run: Run, draw: random.Random) -> Strike | None:
    """Started on one process; ended before it saves anything, for its numbers differ in the last digits."""
    if not run.good_steps():
        return None
    one_process = ("parallel.data_parallel_degree=1", "parallel.zero_stage=0", "checkpoint.every.steps=1000000")
    attempt = run.start(*one_process)
    found = attempt.wait_for(
        lambda: any(p.name.endswith((CONVERTING, UNIVERSAL)) for p in run.checkpoints.iterdir()), seconds=START_SECONDS
    )
    strike = _kill(attempt, draw, "in a reshape" if found else "before a reshape", delay=0)
    for made in run.checkpoints.glob(f"*{UNIVERSAL}"):
        shutil.rmtree(made)  # so that the next one is not over before it began
    return strike


def kill_everything(run: Run, draw: random.Random) -> Strike | None:
    """As when the machine goes: no process has a last word."""
    attempt = run.start()
    attempt.wait_for_step(some_steps_on(run, draw))
    return struck(run, attempt.kill_all(), "every process killed", (-signal.SIGKILL,))


def stop_request(run: Run, draw: random.Random) -> Strike | None:
    attempt = run.start()
    attempt.wait_for_step(some_steps_on(run, draw))
    number = draw.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
    attempt.signal(number)
    return struck(run, attempt.end(), number.name, (STOPPED,))


def disk_full_in_a_save(run: Run, draw: random.Random) -> Strike | None:
    """The run's disk is a small one of its own; room is made again once a save has failed, or the attempt."""
    attempt = run.start()
    attempt.wait_for_step(_next_multiple(run, SAVE_EVERY) - 3)
    with _full_disk(run.folder):
        failed = attempt.wait_for(lambda: "was not saved" in attempt.said, seconds=60)
    what = "disk full, a save failed and the run went on" if failed else "disk full, the attempt ended"
    if not attempt.has_ended:
        attempt.signal(signal.SIGKILL, draw.choice(attempt.ranks() or [attempt.process.pid]))
    return struck(run, attempt.end(), what, (FAILED,))


def truncated_file(run: Run, draw: random.Random) -> Strike | None:
    def truncate(path: Path) -> None:
        os.truncate(path, draw.randrange(path.stat().st_size))

    return _damage(run, draw, truncate, "truncated")


def flipped_bit(run: Run, draw: random.Random) -> Strike | None:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)

    return _damage(run, draw, flip, "a bit flipped")


def missing_file(run: Run, draw: random.Random) -> Strike | None:
    return _damage(run, draw, Path.unlink, "missing")


def stale_partial_directory(run: Run, draw: random.Random) -> Strike | None:
    """With files of the names that the next save will write, and with a manifest, of an attempt long gone."""
    strike = _kill_when(run, draw, some_steps_on(run, draw), "in a step")
    good = run.good_steps()
    if strike and good:
        for name in (f"step-{good[-1] + SAVE_EVERY:08d}{PARTIAL}", f"step-{good[-1] + 2 * SAVE_EVERY:08d}.g1{PARTIAL}"):
            shutil.copytree(step_dir(run.checkpoints, good[-1]), run.checkpoints / name, dirs_exist_ok=True)
    return strike and Strike("stale partial directories", strike.exit_code, strike.expected)


def two_starts_at_once(run: Run, draw: random.Random) -> Strike | None:
    """Wherever the second one falls in the start of the first."""
    first = run.start()
    first.wait_for(lambda: False, seconds=draw.uniform(0, 4))
    second = run.start()
    both = (first, second)
    wait_until(lambda: any(a.has_ended for a in both), seconds=START_SECONDS)
    loser, winner = both if first.has_ended else (second, first)
    code = loser.end()
    winner.wait_for_step(some_steps_on(run, draw))
    winner.kill_all()
    return struck(run, code, "two starts at once", (TAKEN_OVER, WRONG_INPUT))


def paused_attempt_woken(run: Run, draw: random.Random) -> Strike | None:
    """The older one sleeps, a newcomer goes on, the older one wakes while it does."""
    older = run.start()
    reached = older.wait_for_step(some_steps_on(run, draw))
    paused = older.ranks()
    if not reached or not paused:
        return struck(run, older.end(), "finished first", (0,))
    older.signal(signal.SIGSTOP, *paused)
    target = run.last_step() + draw.randint(1, 15)
    newer = attempt_elsewhere(
        run.dir.path, num_ranks=run.kind.num_ranks, log=run.folder.parent / f"{run.name}-newer.log"
    )
    wait_until(
        lambda: run.last_step() > target,
        seconds=START_SECONDS,
        or_when=lambda: any(process.poll() is not None for process in newer),
    )
    older.signal(signal.SIGCONT, *paused)
    code = older.end()
    for process in newer:
        process.send_signal(signal.SIGTERM)
    for process in newer:
        process.wait(timeout=END_SECONDS)
    return struck(run, code, "a paused attempt woken", (TAKEN_OVER,))


FROM_OUTSIDE: tuple[Fault, ...] = (
    kill_in_a_save,
    two_starts_at_once,
    flipped_bit,
    paused_attempt_woken,
    disk_full_in_a_save,
    kill_in_a_step,
    truncated_file,
    kill_in_a_reshape,
    kill_in_an_evaluation,
    kill_at_the_phase_boundary,
    stop_request,
    missing_file,
    kill_everything,
    stale_partial_directory,
)


def some_steps_on(run: Run, draw: random.Random) -> int:
    """From where the next attempt begins."""
    return max(run.good_steps(), default=0) + draw.randint(1, 3 * SAVE_EVERY)


def _next_multiple(run: Run, of: int) -> int:
    return (max(run.good_steps(), default=0) // of + 1) * of


def struck(run: Run, code: int, what: str, expected: tuple[int, ...]) -> Strike | None:
    """The strike, unless the attempt came to the end of the run before it."""
    return None if code == 0 and run.is_finished else Strike(what, code, expected)


def _kill_when(run: Run, draw: random.Random, step: int, where: str, *, delay: float = 0) -> Strike | None:
    attempt = run.start()
    attempt.wait_for_step(step)
    return _kill(attempt, draw, where, delay=delay)


def _kill(attempt: Attempt, draw: random.Random, where: str, *, delay: float) -> Strike | None:
    attempt.wait_for(lambda: False, seconds=delay)
    ranks = attempt.ranks()
    if ranks and not attempt.has_ended:
        index = draw.randrange(len(ranks))
        attempt.signal(signal.SIGKILL, ranks[index])
        return struck(attempt.run, attempt.end(), f"rank {index} killed {where}", (FAILED,))
    return struck(attempt.run, attempt.end(), f"killed {where}", (FAILED,))


def _damage(run: Run, draw: random.Random, harm: Callable[[Path], None], what: str) -> Strike | None:
    """A file of the newest checkpoint, once the attempt has gone; one more must be there to go on from."""
    attempt = run.start()
    attempt.wait_for_step(some_steps_on(run, draw) + SAVE_EVERY)
    code = attempt.kill_all()
    good = run.good_steps()
    strike = struck(run, code, f"{what}: nothing, there is one checkpoint only", (-signal.SIGKILL,))
    if strike is None or len(good) < 2:
        return strike
    (newest,) = (listed for listed in list_checkpoints(run.checkpoints) if listed.step == good[-1])
    files = sorted(path for path in newest.path.rglob("*") if path.is_file() and path.stat().st_size)
    harmed = draw.choice(files)
    harm(harmed)
    name = harmed.relative_to(newest.path)
    return Strike(f"step {newest.step}, {name}: {what}", code, (-signal.SIGKILL,), costs_checkpoints=True)


class _full_disk:  # noqa: N801 - reads as what it is
    """A file that takes all the room but a little, for the time of the block."""

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def __enter__(self) -> None:
        free = shutil.disk_usage(self._filler.parent).free
        with self._filler.open("wb") as file, suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(free - FILLED_TO_BYTES, 1))

    def __exit__(self, *_: object) -> None:
        self._filler.unlink(missing_ok=True)
