"""The run directory before a job starts: frozen config and provenance, or the reason why this run cannot go on."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from data_pipeline.shard_index import load_index
from hierlm.checkpoint.find import list_checkpoints
from hierlm.config.load import check_mapping, dump_config, load_config
from hierlm.config.run_config import RunConfig
from hierlm.config.same_run import changes_since
from hierlm.config.structure import differences, harmless_differences, is_extended
from hierlm.durable import rename, set_aside
from hierlm.errors import UserError
from hierlm.lease import holder
from hierlm.models.config import ModelConfig
from hierlm.run_dir import RunDir, ways_out
from launcher import provenance
from launcher.rate_change import rate_change

Config = RunConfig[ModelConfig]


@dataclass(frozen=True)
class PreparedRun:
    """A run directory ready for a job; `messages` are lines for the user."""

    run_dir: RunDir
    is_finished: bool
    messages: tuple[str, ...] = ()


def prepare_run(config: Config, *, command_line: Sequence[str]) -> PreparedRun:
    """Create `<run_root>/<name>`, or take up the unfinished run in it.

    UserError when it holds something else, a run whose numbers would come out differently, or cannot be written;
    DataError when that is because the data are others.
    """
    run_dir = run_dir_of(config)
    refuse_ways_out(run_dir)
    try:
        if run_dir.config.exists():
            return _take_up(run_dir, config, command_line=command_line)
        _create(run_dir, config, command_line=command_line)
    except OSError as error:
        where = error.filename or run_dir.path
        raise UserError(f"{where}: cannot write the run directory: {error.strerror}; set run_root=DIR") from None
    return PreparedRun(run_dir, is_finished=False)


def run_dir_of(config: Config) -> RunDir:
    """Where a run lives."""
    return RunDir(Path(config.run_root).expanduser() / config.name)


def refuse_ways_out(run_dir: RunDir) -> None:
    """UserError with each link by which writing into the run would write somewhere else."""
    if problems := ways_out(run_dir):
        raise UserError(problems)


def write_whole(path: Path, text: str) -> None:
    """Replace a file by a complete one: a reader sees the old text or the new, never a part."""
    partial = path.with_name(f".{path.name}.{token_hex(8)}.partial")
    try:
        with partial.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        rename(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _create(run_dir: RunDir, config: Config, *, command_line: Sequence[str]) -> None:
    own = {run_dir.provenance.name, run_dir.logs.name}
    if run_dir.path.is_dir():
        foreign = sorted(
            e.name
            for e in run_dir.path.iterdir()
            if e.name not in own and not e.name.endswith((".partial", ".damaged"))
        )
        if foreign:
            raise UserError(
                f"{run_dir.path}: exists, has no {run_dir.config.name} but {', '.join(foreign[:5])}: not a run to go "
                "on with; take another name=NAME or remove the directory"
            )
    run_dir.logs.mkdir(parents=True, exist_ok=True)
    write_whole(run_dir.provenance, json.dumps({**provenance.collect(command_line), "resumes": []}, indent=2) + "\n")
    write_whole(run_dir.config, dump_config(config))  # last: it makes the directory a run


def _take_up(run_dir: RunDir, config: Config, *, command_line: Sequence[str]) -> PreparedRun:
    _refuse_a_second_writer(run_dir)
    old, mended = _config_of(run_dir)
    made = _steps_made(run_dir, old)
    if differences(old, config) and not is_extended(old, config):
        old = _config_until(run_dir, step=made) or old
    changes, extended = differences(old, config), is_extended(old, config)
    if changes and not extended:
        raise UserError(_other_structure(run_dir, changes))
    _refuse_what_no_checkpoint_knows(run_dir, old, config)
    finished = run_dir.finished.exists()
    if finished and not extended:
        line = f"{run_dir.path} is finished; take another name=NAME or remove the directory to train again"
        return PreparedRun(run_dir, is_finished=True, messages=(*mended, line))
    changes += harmless_differences(old, config)
    messages = mended + [f"{run_dir.path}: going on with changed settings: {'; '.join(changes)}"] * bool(changes)
    if extended and made > 0:
        bent = rate_change(old, config, step=made)
        messages += [f"{run_dir.path}: {bent}"] if bent else []
        write_whole(run_dir.config_until(made), dump_config(old))
    messages += _add_resume(run_dir, command_line)
    write_whole(run_dir.config, dump_config(config))
    if finished:
        run_dir.finished.unlink()
    return PreparedRun(run_dir, is_finished=False, messages=tuple(messages))


def _steps_made(run_dir: RunDir, config: Config) -> int:
    """Where the next attempt begins: a finished run at its end, another at its newest checkpoint."""
    if run_dir.finished.exists():
        return sum(phase.num_steps for phase in config.phases)
    names = (path.name.removeprefix("step-") for path in run_dir.checkpoints.glob("step-*"))
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _config_until(run_dir: RunDir, *, step: int) -> Config | None:
    """What a run was before it was made longer, if no step was made since: it may be made so in another way, or not."""
    path = run_dir.config_until(step)
    return load_config(path) if path.exists() else None


def _refuse_a_second_writer(run_dir: RunDir) -> None:
    """Where it can be known; from another machine a newcomer takes the run over, and the older attempt stops."""
    claim = holder(run_dir.leases)
    if claim is not None and claim.is_alive_here():
        raise UserError(
            f"{run_dir.path}: process {claim.pid} trains it on this machine since {claim.since}; "
            f"wait for it, or end it with `hierlm cancel {run_dir.path}`"
        )


def _refuse_what_no_checkpoint_knows(run_dir: RunDir, old: Config, config: Config) -> None:
    """UserError where `config` is not that of the newest checkpoint, or its data are others.

    The config file may have been edited since, and says only where the data lay: they may have moved.
    """
    manifests = [listed.manifest for listed in list_checkpoints(run_dir.checkpoints) if listed.manifest is not None]
    if not manifests:
        _refuse_moved_data_of_a_finished_run(run_dir, old, config)
        return
    newest = manifests[-1]
    cursor = newest.cursor
    changes = changes_since(
        newest.config,
        saved_fingerprint=newest.config_fingerprint,
        saved_seed=None if cursor is None else cursor.seed,
        config=config,
    )
    if changes:
        raise UserError(_other_structure(run_dir, changes))
    if cursor is not None:
        paths = [str(source.path) for source in config.data.weighted_sources]
        cursor.require_same_data([load_index(path).fingerprint for path in paths], paths=paths)


def _refuse_moved_data_of_a_finished_run(run_dir: RunDir, old: Config, config: Config) -> None:
    if not run_dir.finished.exists():
        return  # nothing is left to go on from: it starts afresh, on whatever data
    before, now = ([str(source.path) for source in each.data.weighted_sources] for each in (old, config))
    if before != now:
        changes = [f"data: {', '.join(before)} -> {', '.join(now)}, and no checkpoint tells whether they are the same"]
        raise UserError(_other_structure(run_dir, changes))


def _config_of(run_dir: RunDir) -> tuple[Config, list[str]]:
    """What the run was made of: its config file, or where that is damaged what its newest checkpoint holds of it.

    A damaged file is kept beside, and a line for the user says so.
    """
    try:
        return load_config(run_dir.config), []
    except UserError as error:
        saved = _saved_config(run_dir)
        if saved is None:
            raise UserError([*error.problems, _without_a_config(run_dir)]) from None
    config, step = saved
    aside = set_aside(run_dir.config)
    write_whole(run_dir.config, dump_config(config))
    line = (
        f"{run_dir.config}: cannot be read any more; kept as {aside.name}, written anew from the checkpoint of {step}"
    )
    return config, [line]


def _saved_config(run_dir: RunDir) -> tuple[Config, str] | None:
    """The config in the newest checkpoint that holds one which can be read, and its step in words."""
    for listed in reversed(list_checkpoints(run_dir.checkpoints)):
        if listed.manifest is not None and listed.manifest.config is not None:
            config, problems = check_mapping(listed.manifest.config, is_recorded=True)
            if config is not None and not problems:
                return config, f"step {listed.step}"
    return None


def _without_a_config(run_dir: RunDir) -> str:
    if list_checkpoints(run_dir.checkpoints):
        return (
            f"{run_dir.config}: no checkpoint holds it either; restore it from a copy (a tracker keeps one with the "
            "run): its checkpoints are good without it; or train under another name=NAME"
        )
    return (
        f"{run_dir.path}: its config cannot be read any more, and it holds no checkpoint; take another name=NAME or "
        "remove the directory"
    )


def _other_structure(run_dir: RunDir, changes: Sequence[str]) -> list[str]:
    state = "a finished run" if run_dir.finished.exists() else "an unfinished run"
    mend = f"{run_dir.path}: holds {state} with other settings; take another name=NAME or remove the directory"
    if not run_dir.finished.exists():
        mend += f"; `hierlm train {run_dir.config}` goes on with its own settings"
    return [*(f"{run_dir.config}: {change}" for change in changes), mend]


def _add_resume(run_dir: RunDir, command_line: Sequence[str]) -> list[str]:
    """Note this start in the provenance; a line for the user when the code is another one, or the note was damaged."""
    now, messages = provenance.collect(command_line), list[str]()
    first = provenance.read(run_dir.provenance)
    if first is None and run_dir.provenance.exists():
        aside = set_aside(run_dir.provenance)
        messages.append(f"{run_dir.provenance}: cannot be read any more; kept as {aside.name}, begun anew")
    first = first or {**now, "resumes": []}
    resume = provenance.changed_since(first, now)
    write_whole(run_dir.provenance, json.dumps({**first, "resumes": [*first["resumes"], resume]}, indent=2) + "\n")
    line = provenance.code_change(first, now)
    return messages + ([f"{run_dir.path}: {line}"] if line else [])
