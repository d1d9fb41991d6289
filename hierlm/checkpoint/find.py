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
from hierlm.durable import damage
from hierlm.errors import UserError

Report = Callable[[str], None]


@dataclass(frozen=True)
class CheckpointRef:
    """A checkpoint on disk whose manifest is valid."""

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

    Every rank calls it and gets the same answer; `report` receives one line per checkpoint passed over, on the first
    rank. Raises UserError when checkpoints were made and none of them is good.
    """
    listing = team.exchange(list_checkpoints(checkpoints) if team.is_first else [])[0]
    say: Report = report if team.is_first else lambda line: None
    _report_unfinished(checkpoints, listing, say)
    newest_is = ""
    for listed in reversed(listing):
        problems = _problems(listed, team=team)
        if not problems:
            assert listed.manifest is not None
            return CheckpointRef(listed.path, listed.manifest)
        say(f"{listed.path} is damaged ({summary(problems)}): passed over")
        newest_is = newest_is or f" ({listed.path.name}: {summary(problems)})"
    if listing or team.exchange((checkpoints / LATEST).exists())[0]:
        raise UserError(
            f"{checkpoints}: checkpoints were made but none of them is good{newest_is}: "
            "restore one from a copy, or choose another `name` to start afresh"
        )
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
    listing = team.exchange(list_checkpoints(checkpoints) if team.is_first else [])[0]
    found = {listed.step: listed for listed in listing}
    if step not in found:
        there = ", ".join(map(str, found)) or "none"
        raise UserError(f"{checkpoints}: no checkpoint of step {step}; there are: {there}")
    problems = _problems(found[step], team=team)
    if problems:
        raise UserError(f"{found[step].path} is damaged: {summary(problems)}")
    manifest = found[step].manifest
    assert manifest is not None
    return CheckpointRef(found[step].path, manifest)


def verify(listed: Listed) -> list[str]:
    """Everything wrong with a checkpoint, one line each; empty if every byte is as it was written."""
    return _problems(listed, team=ALONE)


def summary(problems: list[str]) -> str:
    """The first problem and how many more."""
    return problems[0] + (f" and {len(problems) - 1} more" if len(problems) > 1 else "")


def _listed(step: int, path: Path) -> Listed:
    try:
        manifest = read_manifest(path)
    except ManifestError as error:
        return Listed(step, path, None, str(error))
    if manifest.step != step:
        return Listed(step, path, None, f"its manifest is of step {manifest.step}")
    return Listed(step, path, manifest, None)


def _problems(listed: Listed, *, team: Team) -> list[str]:
    """The files are shared out over the ranks."""
    if listed.manifest is None:
        return [listed.problem or "no manifest"]
    if not listed.manifest.is_finite:
        return ["its losses were not finite when it was saved"]
    names = team.share(list(listed.manifest.files))
    mine = damage(listed.path, {name: listed.manifest.files[name] for name in names})
    if not mine:  # what was changed on the way has been told; this is what was written to do harm
        mine = list(_refused(listed.path, names))
    return [line for lines in team.exchange(mine) for line in lines]


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
