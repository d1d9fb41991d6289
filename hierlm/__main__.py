"""`python -m hierlm RUN_DIR [--until PHASE]`: what every process of a job executes."""

import argparse
import os
import signal
import sys
import traceback
from pathlib import Path

from data_pipeline.errors import DataError
from hierlm.errors import LostRunError, UserError
from hierlm.exit_codes import FAILED, TAKEN_OVER, WRONG_INPUT
from hierlm.lease import TakenOverError
from hierlm.refused_versions import refuse_wrong_versions
from hierlm.run_dir import RunDir, ways_out
from hierlm.train.record.console import Console, redirect_output
from hierlm.train.record.start_up import StartUp


def main() -> int:
    """Exit codes: 0 finished, 1 failed, 2 the user's input is wrong, 85 stopped and resumable, 86 taken over."""
    start_up = StartUp()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as SIGTERM: until the loop listens there is nothing to save
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
    if problems := ways_out(run_dir):
        print("\n".join(f"error: {problem}" for problem in problems), file=sys.stderr)
        return WRONG_INPUT
    run_dir.logs.mkdir(parents=True, exist_ok=True)
    stream, error_stream = redirect_output(run_dir.rank_log(rank))
    has_log = "HIERLM_RUN_DIR" in os.environ  # that of its batch job
    console = Console(stream, is_first=rank == 0, copy_to=None if has_log else run_dir.console_log)
    try:
        refuse_wrong_versions()
        if rank == 0 and "torch" not in sys.modules:
            console.say("starting: importing torch and DeepSpeed")
        from hierlm.train.run import run

        return run(run_dir, console=console, until_phase=arguments.until, overrides=overrides, start_up=start_up)
    except (UserError, DataError) as error:
        if rank == 0 or getattr(error, "is_of_one_rank", False):
            for problem in error.problems:
                print(f"error: {problem}", file=error_stream, flush=True)
        traceback.print_exc()
        return WRONG_INPUT
    except TakenOverError as error:
        console.say(str(error))
        print(error, file=sys.stderr)  # nobody may be listening to the job's log any more
        return TAKEN_OVER
    except LostRunError as error:
        traceback.print_exc()
        console.say(f"failed: {error}")
        return FAILED
    except Exception as error:
        traceback.print_exc()
        if not _is_echo(error):
            what = f"{type(error).__name__}: {error}".partition("\n")[0]
            console.say_from_any_rank(f"rank {rank} failed: {what} (traceback in {run_dir.rank_log(rank)})")
        return FAILED
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
