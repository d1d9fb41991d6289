"""Which part of the text is for training, validation and test: contiguous tails by bytes, or files of their own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_pipeline.errors import DataError
from data_pipeline.prepare.pieces import Group
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.sources import SourceFile, find_files

TRAIN = "train"
DEFAULT_SPLITS = "valid=0.05,test=0.05"
_ORDER = {"valid": 0, "test": 1}
_MOST_NAMED = 20
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True)
class SplitPlan:
    """Tails of the corpus by share of its bytes, in order; and splits that are files of their own."""

    shares: tuple[tuple[str, float], ...] = ()
    files: tuple[tuple[str, str], ...] = ()


def parse_splits(text: str) -> SplitPlan:
    """`valid=0.05,test=0.05`, `valid=FILE`, or `none`. DataError says what is wrong."""
    if text in ("", "none"):
        return SplitPlan()
    shares: dict[str, float] = {}
    files: dict[str, str] = {}
    for item in text.split(","):
        name, separator, value = (part.strip() for part in item.partition("="))
        if not separator or not value or not _NAME.fullmatch(name) or name == TRAIN or name in shares or name in files:
            raise DataError(
                f"--splits: {item!r} is wrong; write NAME=SHARE or NAME=FILE like {DEFAULT_SPLITS}, or none"
            )
        try:
            shares[name] = float(value)
        except ValueError:
            files[name] = value
    if not all(0 < share < 1 for share in shares.values()) or not sum(shares.values()) < 1:
        raise DataError(f"--splits: {text}: every share must be above 0 and all together below 1")
    return SplitPlan(tuple(sorted(shares.items(), key=_rank)), tuple(sorted(files.items(), key=_rank)))


def _rank(item: tuple[str, object]) -> int:
    return _ORDER.get(item[0], len(_ORDER))


@dataclass(frozen=True)
class Part:
    """Files of one group before they are measured."""

    files: tuple[SourceFile, ...]
    shares: tuple[tuple[str, float], ...]
    only_split: str | None = None


def parts(files: tuple[SourceFile, ...], plan: SplitPlan, *, report: Report) -> tuple[Part, ...]:
    """The corpus with its tails first, then every split that has files of its own.

    DataError when a file is in two of them: what a model was trained on says nothing of it.
    """
    own = [Part(tuple(find_files([path], report=report)), (), only_split=name) for name, path in plan.files]
    corpus = (Part(files, plan.shares), *own)
    _refuse_shared_files(corpus)
    return corpus


def _refuse_shared_files(corpus: Sequence[Part]) -> None:
    owner: dict[tuple[object, ...], tuple[SourceFile, str]] = {}
    problems: list[str] = []
    for part in corpus:
        split = part.only_split or TRAIN
        for file in part.files:
            before, other = owner.setdefault(file.identity, (file, split))
            if other != split:
                where = file.path if file.path == before.path else f"{file.path} (as {before.path})"
                problems.append(f"--splits: {where} is in {other} and in {split}; leave it out of one of them")
    if problems:
        more = [f"--splits: and {len(problems) - _MOST_NAMED} more files"] if len(problems) > _MOST_NAMED else []
        raise DataError([*problems[:_MOST_NAMED], *more])


def group(part: Part, *, text_bytes: int, unit_bytes: int = 1) -> Group:
    """Where the splits of a measured part end, in whole units; DataError when one would be empty."""
    if part.only_split is not None:
        return Group(part.files, (part.only_split,), (text_bytes,))
    tails = [round(text_bytes * share / unit_bytes) * unit_bytes for _, share in part.shares]
    sizes = [text_bytes - sum(tails), *tails]
    names = (TRAIN, *(name for name, _ in part.shares))
    empty = [name for name, size in zip(names, sizes, strict=True) if size <= 0]
    if empty:
        raise DataError(
            f"{part.files[0].path}: {text_bytes} bytes of input are too few: split {empty[0]} would be empty; "
            "use --splits none or more input"
        )
    return Group(part.files, names, _running_sums(sizes))


def _running_sums(sizes: Sequence[int]) -> tuple[int, ...]:
    ends: list[int] = []
    for size in sizes:
        ends.append(size + (ends[-1] if ends else 0))
    return tuple(ends)
