"""The newest checkpoint that is really there: every byte is checked before any is used. Torch-free.

Checked means: as the manifest says, and nothing but tensors and plain data (`archive`), whoever wrote the manifest.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hierlm.checkpoint.archive import problem_of
from hierlm.checkpoint.layout import LATEST, PARTIAL, REPLACED, SWEPT, entries, step_dir, steps_present
from hierlm.checkpoint.manifest import Manifest, ManifestError, read_manifest
from hierlm.checkpoint.team import ALONE, Team
from hierlm.durable import FileRecord, damage
from hierlm.errors import UserError

Report = Callable[[str], None]


@dataclass(frozen=True)
class CheckpointRef:
    """A checkpoint on disk whose manifest is valid; of a team that found it, the first rank alone is told its files."""

    path: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        return self.manifest.step


@dataclass(frozen=True)
class Listed:
    """A directory that claims to be the checkpoint of a step."""

    step: int
    path: Path
    manifest: Manifest | None
    problem: str | None  # why the manifest is None


def list_checkpoints(checkpoints: Path) -> list[Listed]:
    """All claims, oldest first; only manifests are read."""
    paths = {step: step_dir(checkpoints, step, suffix=REPLACED) for step in steps_present(checkpoints, suffix=REPLACED)}
    paths.update((step, step_dir(checkpoints, step)) for step in steps_present(checkpoints))
    return [_listed(step, path) for step, path in sorted(paths.items())]


def newest_good(checkpoints: Path, *, report: Report, team: Team = ALONE) -> CheckpointRef | None:
    """The newest checkpoint without damage, of finite losses; None for a run that has never committed one.

    Every rank calls it and gets the same checkpoint; `report` receives one line per checkpoint passed over, on the
    first rank. Raises UserError when checkpoints were made and none of them is good.
    """
    say: Report = report if team.is_first else lambda line: None
    listing = list_checkpoints(checkpoints) if team.is_first else []
    if team.is_first:
        _report_unfinished(checkpoints, listing, say)
    newest_is = ""
    for place in range(team.tell(len(listing))):
        listed = listing[-1 - place] if team.is_first else None
        problems = _problems_found(listed, team=team)
        if not team.tell(bool(problems)):
            return _told(listed, team=team)
        if listed is not None:
            say(f"{listed.path} is damaged ({summary(problems)}): passed over")
            newest_is = newest_is or f" ({listed.path.name}: {summary(problems)})"
    none_good = (
        f"{checkpoints}: checkpoints were made but none of them is good{newest_is}: "
        "restore one from a copy, or choose another `name` to start afresh"
    )
    _refuse(none_good if team.is_first and (listing or (checkpoints / LATEST).exists()) else None, team=team)
    return None


def checkpoint_at(
    checkpoints: Path, step: int | None, *, report: Report = lambda line: None, team: Team = ALONE
) -> CheckpointRef:
    """The checkpoint of one step (None: the newest good one), verified; UserError names those there are.

    Every rank of a team calls it, as `newest_good`.
    """
    if step is None:
        ref = newest_good(checkpoints, report=report, team=team)
        if ref is None:
            raise UserError(f"{checkpoints}: no checkpoint yet")
        return ref
    found = {listed.step: listed for listed in (list_checkpoints(checkpoints) if team.is_first else [])}
    there = ", ".join(map(str, found)) or "none"
    _refuse(None if step in found else f"{checkpoints}: no checkpoint of step {step}; there are: {there}", team=team)
    listed = found.get(step)
    problems = _problems_found(listed, team=team)
    _refuse(f"{listed.path} is damaged: {summary(problems)}" if listed and problems else None, team=team)
    return _told(listed, team=team)


def verify(listed: Listed) -> list[str]:
    """Everything wrong with a checkpoint, one line each; empty if every byte is as it was written."""
    return _problems_found(listed, team=ALONE)


def summary(problems: list[str]) -> str:
    """The first problem and how many more."""
    return problems[0] + (f" and {len(problems) - 1} more" if len(problems) > 1 else "")


def _refuse(refusal: str | None, *, team: Team) -> None:
    """UserError on every rank where the first one has a refusal; what the others pass is not looked at."""
    if (told := team.tell(refusal)) is not None:
        raise UserError(told)


def _listed(step: int, path: Path) -> Listed:
    try:
        manifest = read_manifest(path)
    except ManifestError as error:
        return Listed(step, path, None, str(error))
    if manifest.step != step:
        return Listed(step, path, None, f"its manifest is of step {manifest.step}")
    return Listed(step, path, manifest, None)


def _problems_found(listed: Listed | None, *, team: Team) -> list[str]:
    """On the first rank, which alone has a listing; nothing elsewhere. The files are dealt to all ranks."""
    known = _known_problems(listed) if listed is not None else []
    if team.tell(bool(known)):
        return known
    manifest = None if listed is None else listed.manifest
    path: Path = team.tell(None if listed is None else listed.path)
    mine = team.dealt([] if manifest is None else list(manifest.files.items()))
    return [line for lines in team.gather(_damage_of(path, dict(mine))) for line in lines]


def _known_problems(listed: Listed) -> list[str]:
    """What the manifest tells alone."""
    if listed.manifest is None:
        return [listed.problem or "no manifest"]
    return [] if listed.manifest.is_finite else ["its losses were not finite when it was saved"]


def _damage_of(root: Path, files: dict[str, FileRecord]) -> list[str]:
    """What was changed on the way is told; only where nothing was, what was written to do harm."""
    return damage(root, files) or list(_refused(root, list(files)))


def _told(listed: Listed | None, *, team: Team) -> CheckpointRef:
    """The same on every rank, but for the files: of many ranks each would be told those of all."""
    manifest = None if listed is None else listed.manifest
    short = None if manifest is None else manifest.model_copy(update={"files": {}})
    path, told = team.tell((None if listed is None else listed.path, short))
    return CheckpointRef(path, manifest or told)


def _refused(root: Path, names: Sequence[str]) -> Iterator[str]:
    """One line for each file of tensors that holds other things than tensors and plain data."""
    for name in names:
        if name.endswith(".pt") and (problem := problem_of(root / name)) is not None:
            yield f"{name}: {problem}"


def _report_unfinished(checkpoints: Path, listing: list[Listed], say: Report) -> None:
    newest = listing[-1].step if listing else -1
    for step, _, path in (*entries(checkpoints, suffix=PARTIAL), *entries(checkpoints, suffix=SWEPT)):
        if step > newest:
            say(f"the save of step {step} was interrupted: {path.name} is passed over")
    latest = _latest(checkpoints)
    if latest is not None and latest > newest:
        say(f"{checkpoints / LATEST} names step {latest}, which is gone")


def _latest(checkpoints: Path) -> int | None:
    try:
        text = (checkpoints / LATEST).read_text(encoding="utf-8").strip()
        return int(text.removeprefix("step-"))
    except (OSError, ValueError):
        return None
