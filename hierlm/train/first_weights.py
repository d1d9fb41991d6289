"""The first weights of a run that begins with another training's (`init_from`): found, checked, read, written down.

Only a run without a checkpoint of its own comes here. All ranks look, each at its share of the bytes, and agree.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data_pipeline.masking import masked
from hierlm.checkpoint.find import CheckpointRef, checkpoint_at
from hierlm.checkpoint.name_assignment import Assignment, assign
from hierlm.checkpoint.team import Team
from hierlm.checkpoint.weight_source import Source, find_source
from hierlm.checkpoint.weights import Weights, open_weights, refuse_what_is_no_weight
from hierlm.config.run_config import RunConfig
from hierlm.durable import hash_file, write_synced
from hierlm.errors import UserError
from hierlm.models.assembly import canonical_shapes
from hierlm.parallel.engine import Engine
from hierlm.phases.timeline import Moment
from hierlm.run_dir import RunDir

RECORD = "init_from"
"""Key in provenance.json."""

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """A source whose bytes are known, and what is taken of it."""

    weights: Weights
    assignment: Assignment
    source: Source
    record: Mapping[str, Any]  # for the provenance


def refuse_what_does_not_fit(config: RunConfig[Any]) -> None:
    """UserError with all names and shapes that do not; weights are not read. Before a run directory is made."""
    if config.init_from is not None:
        source = find_source(config.init_from, run_root=_run_root(config))
        listed = source.listed
        checkpoint = None
        if listed is not None and listed.manifest is not None:
            checkpoint = CheckpointRef(listed.path, listed.manifest)
        _assigned(config, source, open_weights(source, checkpoint=checkpoint))


def begin_with_first_weights(
    config: RunConfig[Any], run_dir: RunDir, *, engine: Engine, first: Moment, team: Team, say: Say
) -> None:
    """Every rank calls it before the step of `first`; nothing happens without `init_from`."""
    if config.init_from is None:
        return
    found = _found(config, run_dir, team=team, say=say)
    team.together(lambda: engine.read_first_weights(found.weights, found.assignment.taken))
    engine.follow_first_weights()
    engine.take_switches(first)
    if not engine.has_finite_weights():
        raise UserError(f"init_from: {found.source}: holds weights that are not finite; begin with others")
    if team.is_first:
        _write_down(run_dir, found.record)
    for line in _told(found):
        say(line)


def recorded(run_dir: RunDir) -> dict[str, Any] | None:
    """What a run has begun with, as its provenance tells."""
    try:
        provenance = json.loads(run_dir.provenance.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    record = provenance.get(RECORD) if isinstance(provenance, dict) else None
    return record if isinstance(record, dict) else None


def _found(config: RunConfig[Any], run_dir: RunDir, *, team: Team, say: Say) -> Found:
    """UserError on every rank, the same, where the source is not there or does not fit."""
    init_from, before = config.init_from, team.tell(recorded(run_dir) if team.is_first else None)
    assert init_from is not None
    if init_from.checkpoint is None and before is not None:  # an attempt before has settled which one is meant
        init_from = init_from.model_copy(update={"checkpoint": before.get("step")})
    source = _agreed(lambda: find_source(init_from, run_root=_run_root(config)), team=team)
    say(f"reading first weights: {source}")
    checkpoint = None
    if source.listed is not None:
        place = RunDir(source.path).checkpoints
        checkpoint = checkpoint_at(place, init_from.checkpoint, report=say, team=team)
    weights = open_weights(source, checkpoint=checkpoint)
    assignment = _assigned(config, source, weights)
    record = {
        "path": masked(str(source.path.absolute())),
        "step": None if checkpoint is None else checkpoint.step,
        "sha256": _digest(source, checkpoint, team=team),
        "taken": len(assignment.taken),
        "drawn": list(assignment.drawn),
    }
    if before is not None and before.get("sha256") != record["sha256"]:
        raise UserError(
            f"init_from: {source}: has changed since {run_dir.path} was begun with it (sha256 {before.get('sha256')}, "
            f"now {record['sha256']}), and no checkpoint was made since; restore it, or train under another name=NAME"
        )
    return Found(weights, assignment, source, record)


def _assigned(config: RunConfig[Any], source: Source, weights: Weights) -> Assignment:
    model, here = config.model, canonical_shapes(config.model)
    assert config.init_from is not None
    found = assign(config.init_from, there=weights.shapes, here=here, source=str(source), vocab_size=model.vocab_size)
    refuse_what_is_no_weight(source, found.taken.values())
    return found


def _run_root(config: RunConfig[Any]) -> Path:
    return Path(config.run_root).expanduser()


def _agreed(action: Callable[[], T], *, team: Team) -> T:
    """What the first rank finds, or its UserError, on every rank: folders may change while others look."""
    answer: tuple[Any, tuple[str, ...]] = (None, ())
    if team.is_first:
        try:
            answer = action(), ()
        except UserError as error:
            answer = None, error.problems
    value, problems = team.tell(answer)
    if problems:
        raise UserError(problems)
    return value


def _digest(source: Source, checkpoint: CheckpointRef | None, *, team: Team) -> str:
    """The same on every rank, which hash a part of the files each; only the first one knows all of them.

    Of a checkpoint the files' are those of its manifest, which all bytes have been compared with.
    """
    if checkpoint is not None:
        known = {name: record.sha256 for name, record in checkpoint.manifest.files.items()}
    else:
        mine = team.dealt(source.files)
        shares = team.collected(lambda: {file.name: hash_file(file).sha256 for file in mine})
        known = {name: sha256 for share in shares for name, sha256 in share.items()}
    digest: str = team.tell(_digest_of(known) if team.is_first else None)
    return digest


def _digest_of(known: Mapping[str, str]) -> str:
    """Of a single file its SHA-256; of several that of the lines `SHA256  NAME`, as sha256sum prints them, by name."""
    if len(known) == 1:
        return next(iter(known.values()))
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(known.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _write_down(run_dir: RunDir, record: Mapping[str, Any]) -> None:
    try:
        provenance = json.loads(run_dir.provenance.read_bytes())
    except (OSError, ValueError, RecursionError):
        provenance = None
    if not isinstance(provenance, dict):
        provenance = {"resumes": []}
    write_synced(run_dir.provenance, json.dumps({**provenance, RECORD: record}, indent=2) + "\n")


def _told(found: Found) -> list[str]:
    taken, drawn, left = found.assignment
    lines = [
        f"begins with the weights of {found.source}: {len(taken)} of {len(taken) + len(drawn)} parameters, sha256 "
        f"{found.record['sha256'][:12]}"
    ]
    if drawn:
        lines.append(f"begin as they are drawn: {_some(drawn)}")
    return lines + ([f"left where they are, for nothing here has their names: {_some(left)}"] if left else [])


def _some(names: Any) -> str:
    told = ", ".join(ascii(name)[1:-1] for name in names[:5])
    return told + (f" and {len(names) - 5} more" if len(names) > 5 else "")
