"""train a model here; goes on with an unfinished run of the same name"""

import json
import sys
from typing import TYPE_CHECKING

from hierlm.exit_codes import STOPPED, TAKEN_OVER, WRONG_INPUT
from launcher.options import ConfigArgument, JsonOption, OverridesArgument, PluginOption

if TYPE_CHECKING:
    from hierlm.config.run_config import RunConfig
    from hierlm.models.config import ModelConfig
    from hierlm.run_dir import RunDir

EXAMPLE = "hierlm train configs/tiny/hourglass.yaml data.path=data/demo phases.0.duration.steps=100"

STATES = {0: "finished", STOPPED: "stopped", TAKEN_OVER: "taken over", WRONG_INPUT: "refused"}


def command(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> int:
    """Train a model on this machine, on as many processes as the layout needs.

    Inside a Slurm allocation of several nodes (salloc), on all of them.

    When runs/NAME holds an unfinished run, it goes on from its last checkpoint, on another layout too. A longer last
    phase or a phase more continues a finished one; another seed, model, dataset, optimizer or precision needs another
    name.

    Ctrl-C once saves a checkpoint and stops (exit code 85): the same command goes on from there. Ctrl-C twice kills.
    """
    from hierlm import outlets
    from hierlm.config.load import load_config
    from launcher import local
    from launcher.job import local_job
    from launcher.placement import gpus_here
    from launcher.preflight import refuse_what_cannot_run
    from launcher.prepare_run import prepare_run
    from launcher.submit import allocation
    from launcher.verb import json_on_stdout

    with json_on_stdout(as_json) as print_document:
        run_config = load_config(config, overrides or [])
        spans_nodes = allocation.spans_nodes()
        refuse_what_cannot_run(run_config, num_gpus=None if spans_nodes else gpus_here())
        _refuse_weights_that_do_not_fit(run_config)
        prepared = prepare_run(run_config, command_line=sys.argv)
        for message in prepared.messages:
            outlets.tell(message, stream=sys.stdout)
        run = allocation.run if spans_nodes else local.run
        exit_code = 0 if prepared.is_finished else run(local_job(run_config, run_dir=prepared.run_dir))
        if as_json:
            print_document(outcome(prepared.run_dir, exit_code))
    return exit_code


def _refuse_weights_that_do_not_fit(config: "RunConfig[ModelConfig]") -> None:
    """Before the run directory is made, which would keep a wrong `init_from`; imports torch where there is one."""
    from hierlm.checkpoint.find import list_checkpoints
    from launcher.prepare_run import run_dir_of

    run_dir = run_dir_of(config)
    if config.init_from is None or run_dir.finished.exists() or list_checkpoints(run_dir.checkpoints):
        return
    from hierlm.train.first_weights import refuse_what_does_not_fit

    refuse_what_does_not_fit(config)


def outcome(run_dir: "RunDir", exit_code: int) -> dict[str, object]:
    """The run as one JSON object; `summary` is null until the run has finished."""
    summary = _summary(run_dir) if exit_code == 0 else None
    state = STATES.get(exit_code, "failed")
    return {
        "run": run_dir.name,
        "run_dir": str(run_dir.path),
        "state": state,
        "exit_code": exit_code,
        "summary": summary,
    }


def _summary(run_dir: "RunDir") -> dict[str, object] | None:
    """What the run has written at its end; a damaged file is told of and is no answer."""
    try:
        found: object = json.loads(run_dir.summary.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        found = type(error).__name__
    if isinstance(found, dict):
        return found
    print(f"hierlm train: {run_dir.summary}: cannot be read ({found})", file=sys.stderr)
    return None
