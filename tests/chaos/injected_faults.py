"""Faults that strike inside the processes: errors of single system calls, the clock, NaN. Most attempts live on.

What an attempt survives it is left alive for the next fault.
"""

import errno
import random
from collections.abc import Callable

from hierlm.exit_codes import FAILED, TAKEN_OVER
from tests.chaos.faults import Fault, Strike, struck
from tests.chaos.injection import ERRORS
from tests.chaos.run import SAVE_EVERY, START_SECONDS, Attempt, Run

HOUR = 3600
LIVES = 0
"""In the place of an exit code: the attempt goes on."""

STRIKE_SECONDS = 90.0
PLACES = {
    # where: (part of the path, up to which call of one process, calls, how the attempt may end)
    "save": ("/checkpoints/", 25, ("any", "create", "write", "fsync", "rename"), (LIVES,)),
    "metrics": ("metrics.jsonl", 12, ("any", "write"), (LIVES, FAILED)),
    "lease": ("/leases", 12, ("any", "list", "open"), (LIVES, FAILED, TAKEN_OVER)),
}


def errno_in(place: str, number: int) -> Fault:
    """A system call of this place fails once, in whichever process makes it first."""
    path, most, calls, expected = PLACES[place]

    def fault(run: Run, draw: random.Random) -> Strike | None:
        call, nth = draw.choice(calls), draw.randint(1, most)
        return while_it_trains(
            run, lambda: run.plan.errno(number, call=call, path=path, nth=nth), expected=expected, what=f"call {nth}"
        )

    fault.__name__ = f"{errno.errorcode[number]}_in_a_{place}"
    return fault


def rename_answered_twice(run: Run, draw: random.Random) -> Strike | None:
    """As network file systems do: the checkpoint has its name, and the answer is that there was no such file."""
    nth = draw.randint(1, 3)
    return while_it_trains(
        run,
        lambda: run.plan.errno(errno.ENOENT, call="rename", path="/checkpoints/", nth=nth, is_done=True),
        expected=(LIVES,),
        what=f"call {nth}, done all the same",
    )


def clock_back_an_hour(run: Run, draw: random.Random) -> Strike | None:
    """And on again, once some steps were made."""
    seconds = draw.choice([-HOUR, -HOUR, HOUR])
    return while_it_trains(run, lambda: run.plan.clock(seconds), expected=(LIVES,), what=f"{seconds} s")


def nan_in_a_step(run: Run, draw: random.Random) -> Strike | None:
    """Of one process, and in the steps after it: the attempt gives up before it saves any of it."""
    attempt = going_on(run)
    between_saves = lambda: run.last_step() % SAVE_EVERY in range(2, 6)  # noqa: E731
    attempt.wait_for(between_saves)
    run.plan.nan()
    if not attempt.wait_for(run.plan.struck, seconds=STRIKE_SECONDS):
        run.plan.clear()
    code = attempt.end()
    run.plan.clear()
    return struck(run, code, f"NaN in process {run.plan.struck().partition(' ')[0]}", (FAILED,))


def going_on(run: Run, attempt: Attempt | None = None) -> Attempt:
    """An attempt that trains."""
    attempt = attempt or run.start()
    begun = run.last_step()
    attempt.wait_for(lambda: attempt.holds_the_run() and run.last_step() > max(begun, 1))
    return attempt


def while_it_trains(
    run: Run, harm: Callable[[], None], *, expected: tuple[int, ...], what: str, attempt: Attempt | None = None
) -> Strike | None:
    """Let a plan strike; then the attempt makes a save's worth of steps more, or ends."""
    attempt = going_on(run, attempt)
    harm()
    has_struck = attempt.wait_for(run.plan.struck, seconds=STRIKE_SECONDS)
    told = run.plan.struck()
    goes_on = attempt.wait_for(steps_more(run, SAVE_EVERY + 2), seconds=START_SECONDS)
    run.plan.clear()
    return (
        judged(run, attempt, goes_on=goes_on, what=f"{what}: {shortened(run, told)}", expected=expected)
        if (has_struck)
        else unstruck(run, attempt)
    )


def steps_more(run: Run, count: int) -> Callable[[], bool]:
    """Whether so many steps were made since now, or the run has come to its end."""
    target = run.last_step() + count
    return lambda: run.last_step() >= target or run.is_finished


def judged(run: Run, attempt: Attempt, *, goes_on: bool, what: str, expected: tuple[int, ...]) -> Strike:
    """What came of it; one that neither goes on nor ends hangs, which no fault may cause."""
    if attempt.has_ended:
        return Strike(what, attempt.end(), expected)
    if goes_on:
        run.keep(attempt)
        return Strike(f"{what}, goes on", LIVES, expected)
    attempt.kill_all()
    return Strike(f"{what}: hangs", -1, expected)


def unstruck(run: Run, attempt: Attempt) -> None:
    """The run made no such call; the attempt is there for the next fault."""
    if attempt.has_ended:
        attempt.end()
    else:
        run.keep(attempt)


def shortened(run: Run, told: str) -> str:
    """Call and path, of this run."""
    return told.partition(" ")[2].replace(str(run.dir.path), "").replace("/checkpoints/", "")


OF_CALLS: tuple[Fault, ...] = tuple(errno_in(place, number) for place in PLACES for number in ERRORS)
FROM_INSIDE: tuple[Fault, ...] = (*OF_CALLS, rename_answered_twice, clock_back_an_hour, nan_in_a_step)
