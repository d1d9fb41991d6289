"""Faults of what is around a run: nobody reads its stdout, places in memory are full, no HOME, files get changed."""

import os
import random
import shutil
import subprocess
from functools import lru_cache

from hierlm.exit_codes import FAILED, WRONG_INPUT
from tests.chaos.faults import Fault, Strike, some_steps_on, struck
from tests.chaos.injected_faults import LIVES, going_on, judged, steps_more
from tests.chaos.run import SAVE_EVERY, START_SECONDS, Attempt, Run

REFUSAL_SECONDS = 2 * START_SECONDS
FULL = ("/tmp", "/dev/shm")
_FILL = "".join(
    f"mount -t tmpfs -o size=16k tmpfs {place} && (cat /dev/zero > {place}/filler 2>/dev/null || true) && "
    for place in FULL
)
IN_FULL_PLACES = ("unshare", "--mount", "sh", "-c", f'{_FILL} exec "$@"', "sh")
"""A mount namespace of the attempt's own, in which they have no room."""


def stdout_gone(run: Run, draw: random.Random) -> Strike | None:
    """As under `| head -1`."""
    attempt = run.start(prints=False)
    stream = attempt.process.stdout
    assert stream is not None
    stream.readline()
    stream.close()
    return lives_on(run, attempt, "its reader has gone")


def temporary_places_full(run: Run, draw: random.Random) -> Strike | None:
    return lives_on(run, run.start(inside=IN_FULL_PLACES), f"{' and '.join(FULL)} are full")


def no_home(run: Run, draw: random.Random) -> Strike | None:
    nobody = dict.fromkeys(("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME"))
    return lives_on(run, run.start(environment=nobody), "no HOME, no USER")


def lives_on(run: Run, attempt: Attempt, what: str) -> Strike | None:
    """It trains a save's worth of steps, or to the end of the run."""
    going_on(run, attempt)
    goes_on = attempt.wait_for(steps_more(run, SAVE_EVERY + 2), seconds=START_SECONDS)
    return judged(run, attempt, goes_on=goes_on, what=what, expected=(LIVES,))


def config_edited(run: Run, draw: random.Random) -> Strike | None:
    """Another model is asked for, or the run's own config.yaml is torn, emptied or not text any more."""
    if not stopped(run, draw):
        return None
    if draw.random() < 0.4:
        code = run.start("model.ffn_dim=96").end(seconds=REFUSAL_SECONDS)
        return Strike("another model asked for", code, (WRONG_INPUT,))
    whole = run.dir.config.read_bytes()
    name, content = draw.choice(
        [("torn", whole[: draw.randrange(1, len(whole))]), ("empty", b""), ("no text", b"\xff\xfe" + whole)]
    )
    run.dir.config.write_bytes(content)
    attempt = going_on(run)
    goes_on = attempt.wait_for(steps_more(run, 2), seconds=START_SECONDS)
    strike = judged(run, attempt, goes_on=goes_on, what=f"config.yaml {name}", expected=(LIVES, WRONG_INPUT))
    if strike.exit_code == WRONG_INPUT:
        run.dir.config.write_bytes(whole)  # as the message advises
    return strike


def shard_swapped(run: Run, draw: random.Random) -> Strike | None:
    """Other tokens under the name of a training shard: nothing may be learned from them."""
    if not stopped(run, draw):
        return None
    shard = draw.choice(sorted((run.dataset / "train").glob("*.tar")))
    kept = shard.with_name("kept")
    shutil.copy2(shard, kept)
    content = bytearray(shard.read_bytes())
    start = draw.randrange(1024, len(content) // 2)
    content[start : start + 4096] = content[start + 4096 : start + 8192]
    shard.write_bytes(content)
    try:
        attempt = run.start()
        code = attempt.end(seconds=REFUSAL_SECONDS)
    finally:
        os.replace(kept, shard)
    return struck(run, code, f"{shard.name} at byte {start}", (WRONG_INPUT, FAILED))


def stopped(run: Run, draw: random.Random) -> bool:
    """Train a little and stop; False when the run came to its end."""
    from signal import SIGTERM

    attempt = run.start()
    attempt.wait_for_step(some_steps_on(run, draw))
    attempt.signal(SIGTERM)
    attempt.end()
    return not run.is_finished and bool(run.good_steps())


def _fails(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


@lru_cache(maxsize=1)
def has_mounts() -> bool:
    """Whether a mount namespace can be had."""
    command = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs -o size=16k tmpfs /tmp"]
    return shutil.which("unshare") is not None and not _fails(command)


AROUND: tuple[Fault, ...] = (stdout_gone, config_edited, shard_swapped, temporary_places_full, no_home)
