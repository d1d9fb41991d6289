"""`python -m hierlm RUN_DIR [--until PHASE]`: what every process of a job executes."""

import argparse
import os
import sys
import traceback
from pathlib import Path

from hierlm.errors import UserError
from hierlm.run_dir import RunDir
from hierlm.train.console import Console, redirect_output


def main() -> int:
    """Exit codes: 0 finished, 1 failed, 2 the user's input is wrong, 85 stopped early and resumable."""
    parser = argparse.ArgumentParser(prog="python -m hierlm", allow_abbrev=False)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    parser.add_argument("--until", metavar="PHASE", help="stop at the end of this phase; a later job goes on")
    parser.add_argument("--data-parallel-degree", metavar="N", type=int, help="of this attempt: nodes were lost")
    arguments = parser.parse_args()
    overrides = [f"parallel.data_parallel_degree={arguments.data_parallel_degree}"] * bool(
        arguments.data_parallel_degree
    )
    run_dir = RunDir(arguments.run_dir)
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
    run_dir.logs.mkdir(parents=True, exist_ok=True)
    stream = redirect_output(run_dir.rank_log(rank))
    console = Console(stream if rank == 0 else None)
    everyone = Console(stream)
    try:
        if rank == 0 and "torch" not in sys.modules:
            console.say("starting: importing torch and DeepSpeed")
        from hierlm.train.run import run

        return run(run_dir, console=console, until_phase=arguments.until, overrides=overrides)
    except UserError as error:
        for problem in error.problems:
            console.say(f"error: {problem}")
        traceback.print_exc()
        return 2
    except Exception as error:
        traceback.print_exc()
        if not _is_echo(error):
            what = f"{type(error).__name__}: {error}".partition("\n")[0]
            everyone.say(f"rank {rank} failed: {what} (traceback in {run_dir.rank_log(rank)})")
        return 1
    finally:
        console.close()
        stream.flush()


def _is_echo(error: Exception) -> bool:
    """Whether a rank failed only because another one, which says why, has gone."""
    return any(text in str(error) for text in ("Connection closed by peer", "Connection reset by peer"))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # gloo and tracker threads of a failed job would keep the process alive
