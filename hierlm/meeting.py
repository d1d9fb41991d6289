"""Where the processes of a job meet: rank 0 listens on a port that the system gives it, and writes it into a file.

A port chosen before anybody listens on it, from the job id or because it was free a moment ago, belongs to whoever
takes it first: of two jobs on one machine one fails. This one is held from the moment it is known.
"""

import os
import time
from pathlib import Path
from secrets import token_hex

from data_pipeline.renaming import rename
from hierlm.run_dir import RunDir

FILE_VARIABLE = "HIERLM_MEETING_FILE"
"""Set by whoever starts the processes: a file where all can see it, of this start alone, which does not exist yet."""


def meeting_file(run_dir: RunDir | None) -> Path | None:
    """That of FILE_VARIABLE; in a Slurm step one in the run's directory; None where neither is at hand."""
    if FILE_VARIABLE in os.environ:
        return Path(os.environ[FILE_VARIABLE])
    if run_dir is None or "SLURM_STEP_ID" not in os.environ:
        return None
    ids = (os.environ["SLURM_JOB_ID"], os.environ["SLURM_STEP_ID"], os.environ.get("SLURM_RESTART_COUNT", "0"))
    return run_dir.meeting_file(".".join(ids))


def rank_environment(rank: int, *, num_ranks: int, meeting: Path) -> dict[str, str]:
    """A process's place, and where it meets the others: on the loopback, which no other machine reaches.

    That is where gloo and NCCL listen too: else on an address that other machines reach.

    Threads are shared out unless the user has decided.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // num_ranks)
    return {
        "OMP_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        FILE_VARIABLE: os.path.abspath(meeting),
        "PYTHONUNBUFFERED": "1",
    }


def announce(port: int, file: Path) -> None:
    """Whoever sees the file can read the whole port."""
    draft = file.with_name(f".{file.name}.{token_hex(8)}.partial")
    with draft.open("x", encoding="ascii") as text:
        text.write(str(port))
    rename(draft, file)


def announced_port(file: Path, *, timeout_seconds: float) -> int:
    """Wait for the file; TimeoutError. The folder is listed: network file systems remember that a name was missing."""
    deadline, pause = time.monotonic() + timeout_seconds, 0.02
    while file.name not in os.listdir(file.parent):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{file}: rank 0 has not written where it listens within {timeout_seconds:.0f} s")
        time.sleep(pause)
        pause = min(1.2 * pause, 0.5)
    return int(file.read_text(encoding="ascii"))
