"""A checkpoint of any layout rewritten in DeepSpeed's universal format, which any layout can load.

One folder per canonical parameter name with its full fp32 weight and optimizer states. Made from the canonical state,
so it also covers what DeepSpeed's own converter leaves out: ZeRO 0, and a change between ZeRO 3 and the other stages.
"""

import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from data_pipeline.names import below_its_folder
from hierlm.checkpoint.blocks import MEMORY_BYTES
from hierlm.checkpoint.canonical import CanonicalState
from hierlm.checkpoint.converting import turn_to_convert
from hierlm.checkpoint.division import Division, Share, divide
from hierlm.checkpoint.engine_files import read_slice
from hierlm.checkpoint.find import CheckpointRef, Report
from hierlm.checkpoint.layout import CONVERTING, ENGINE, UNIVERSAL, attempt_dir, step_dir
from hierlm.checkpoint.team import ALONE, Team
from hierlm.checkpoint.tensor_archive import write_tensor
from hierlm.checkpoint.tensor_file import Mapped, read_mapping
from hierlm.durable import FileRecord, FileWriter, damage, rename, sync, sync_tree, write_synced

MODEL_FILES = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")
"""The same content under the names that stages 0-2 and stage 3 look for."""

NAMES = "names"
"""In the common optimizer file: all parameters, so that a reader need not list the folder; 0.2 did not write it."""

RECORD = "universal.json"
"""What the converted files are and what they were made from."""

_NOT_CARRIED = ("ds_config", "buffer_names", "frozen_param_shapes", "frozen_param_fragments", "shared_params")

Progress = Callable[[int, int], None]
"""Parameters done and in all, of this rank's share."""


def universal_of(
    ref: CheckpointRef,
    *,
    progress: Progress,
    report: Report = lambda line: None,
    team: Team = ALONE,
    memory_bytes: int = MEMORY_BYTES,
) -> Path:
    """The folder to load `ENGINE` from on another layout: converted by all ranks together, or found beside `ref`.

    Several jobs and commands may ask at once: one of them converts. `report` hears, on the first rank, of a wait.
    `memory_bytes` is what a rank keeps of tensors at a time. TeamError on every rank if one of them cannot write;
    nothing half-made is ever found.
    """
    checkpoints = ref.path.parent
    done = step_dir(checkpoints, ref.step, suffix=UNIVERSAL)
    with ExitStack() as turn:
        team.first_only(lambda: turn.enter_context(turn_to_convert(checkpoints, report=report)))
        if _is_whole(done, ref, team=team):
            return done
        unfinished = team.first_only(lambda: _begin(done, checkpoints, step=ref.step))
        records = write_universal(
            ref.path / ENGINE, unfinished, progress=progress, team=team, memory_bytes=memory_bytes
        )
        team.first_only(lambda: _publish(unfinished, done, records, ref))
        return done


def write_universal(
    engine_dir: Path, root: Path, *, progress: Progress, team: Team = ALONE, memory_bytes: int = MEMORY_BYTES
) -> Mapping[str, FileRecord]:
    """Write this rank's share of the parameters (and, on the first rank, what is common) into `root/ENGINE`.

    The records of all files on the first rank, none elsewhere; every rank calls it. The slices recorded in the
    checkpoint decide how a tensor-parallel target will cut each parameter.
    """
    share, division = divide(engine_dir, team=team)
    written = team.collected(lambda: _write_share(share, division, root, progress=progress, memory_bytes=memory_bytes))
    return {name: record for records in written for name, record in records.items()}


def _write_share(
    share: Share, division: Division | None, root: Path, *, progress: Progress, memory_bytes: int
) -> dict[str, FileRecord]:
    files, folder = FileWriter(root), root / ENGINE
    if share.names:
        mapped: Mapped = []
        slices = [read_slice(one, names=share.names, mapped=mapped) for one in share.files]
        state = CanonicalState(slices, where=share.files[0].model.parent, mapped=mapped)
        for done, name in enumerate(state.names, start=1):
            _write_parameter(files, folder / "zero" / name, state, name, memory_bytes=memory_bytes)
            progress(done, len(state.names))
    if division is not None:
        _write_common(files, folder, division)
    return files.records


def _write_parameter(files: FileWriter, folder: Path, state: CanonicalState, name: str, *, memory_bytes: int) -> None:
    rule, shape = state.rule(name), state.shape(name)
    joins: dict[str, Any] = {"cat_dim": -1 if rule == "row" else 0}
    if rule == "vocabulary":
        joins["vocab_tensor"] = True
    for kind in state.kinds:
        with files.open(folder / f"{kind}.pt") as file:
            blocks = state.blocks(name, kind, most_bytes=memory_bytes)
            write_tensor(file, blocks, name="param", shape=shape, rest=joins)
    for count, value in state.counts_of(name).items():
        _save(files, folder / f"{count}.pt", torch.tensor(float(value)))


def _write_common(files: FileWriter, folder: Path, division: Division) -> None:
    # Empty groups, as many as there could be: DeepSpeed overwrites a group's hyperparameters with what it finds here,
    # at stage 3 those of every group with the first one's (weight decay on biases), and ours are the config's.
    groups: list[dict[str, Any]] = [{} for _ in division.names]
    counts = {count: torch.tensor(float(value)) for count, value in division.counts.items()}
    model = read_mapping(division.first.model)
    at_stage_3 = {"state": {0: counts}, "param_groups": groups}
    common = {
        "ds_version": model["ds_version"],
        "param_groups": groups,
        "optimizer_state_dict": at_stage_3,
        NAMES: division.names,
    }
    _save(files, folder / "zero" / "optimizer_state.pt", common)
    for name in MODEL_FILES:
        _save(files, folder / name, _common_model_state(model))


def _common_model_state(model: Mapping[str, Any]) -> dict[str, Any]:
    """Counters and client state; weights are elsewhere."""
    carried = {key: value for key, value in model.items() if key not in _NOT_CARRIED}
    return {**carried, "module": {}, "optimizer": None, "param_shapes": None}


def _save(files: FileWriter, path: Path, content: Any) -> None:
    with files.open(path) as file:
        torch.save(content, file)


def _is_whole(directory: Path, ref: CheckpointRef, *, team: Team = ALONE) -> bool:
    """Whether a conversion of exactly this checkpoint is there, without damage; each rank looks at its share."""
    files = _recorded(directory, ref) if team.is_first else None
    if not team.tell(files is not None):
        return False
    mine = team.dealt([] if files is None else list(files.items()))
    is_whole: bool = team.tell(not any(team.gather(damage(directory, dict(mine)))))
    return is_whole


def _recorded(directory: Path, ref: CheckpointRef) -> dict[str, FileRecord] | None:
    """The files of a conversion of exactly this checkpoint."""
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        files = {below_its_folder(name): FileRecord.model_validate(value) for name, value in record["files"].items()}
        return files if record["source"] == _source(ref) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _begin(done: Path, checkpoints: Path, *, step: int) -> Path:
    """A directory that is this conversion's alone."""
    if done.exists():
        shutil.rmtree(done)
    unfinished = attempt_dir(checkpoints, step, suffix=CONVERTING, generation=secrets.randbits(40))
    (unfinished / ENGINE).mkdir(parents=True)
    return unfinished


def _publish(unfinished: Path, done: Path, records: Mapping[str, FileRecord], ref: CheckpointRef) -> None:
    files = {name: record.model_dump() for name, record in sorted(records.items())}
    write_synced(unfinished / RECORD, json.dumps({"source": _source(ref), "files": files}, indent=1) + "\n")
    sync_tree(unfinished)
    try:
        rename(unfinished, done)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not _is_whole(done, ref):  # else somebody was faster, where there are no locks
            raise
    sync(done.parent)


def _source(ref: CheckpointRef) -> dict[str, str]:
    return {name: record.sha256 for name, record in ref.manifest.files.items()}
