"""Attempts at a run that `hierlm train` has not started."""

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

from hierlm.run_dir import RunDir
from launcher.local import rank_environment
from tests.conftest import quiet_environment


def attempt_elsewhere(run: Path, *, num_ranks: int, log: Path) -> list[subprocess.Popen[bytes]]:
    """The ranks of an attempt as a job on another machine starts them: it cannot know who is alive here.

    What they say goes to `log`.
    """
    meeting = RunDir(run).meeting_file(uuid4().hex)
    with log.open("wb") as said:
        return [
            subprocess.Popen(
                [sys.executable, "-m", "hierlm", str(run)],
                cwd=run.parents[1],
                env={**rank_environment(rank, num_ranks=num_ranks, meeting=meeting), **quiet_environment()},
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            for rank in range(num_ranks)
        ]
