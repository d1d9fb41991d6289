"""The corpus in parts of whole files, which tasks of an array job prepare on their own."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from data_pipeline.errors import DataError
from data_pipeline.prepare.pieces import Group, Position

SHARD_NUMBERS_PER_PART = 1_000_000


class Span(NamedTuple):
    """One part: from `start` up to, not including, file `end` = (group, file)."""

    start: Position
    end: tuple[int, int]
    text_bytes: int


def part_spans(groups: Sequence[Group], *, file_bytes: Sequence[Sequence[int]], num_parts: int) -> list[Span]:
    """Parts of about equal length; some are empty when there are fewer files than parts."""
    begins = _file_positions(groups, file_bytes)
    before = [0, *accumulate(size for sizes in file_bytes for size in sizes)]
    total, last = before[-1], len(begins)
    cuts = [min(bisect_right(before, number * total // num_parts - 1), last) for number in range(num_parts)]
    cuts = [0, *cuts[1:], last]
    nowhere = Position(group=len(groups))
    places = [*begins, nowhere]
    return [Span(places[a], (places[b].group, places[b].file), before[b] - before[a]) for a, b in pairwise(cuts)]


def text_between(start: Position, end: Position, groups: Sequence[Group]) -> int:
    """Bytes of text from one position to a later one."""
    return end.total - start.total + sum(part.ends[-1] for part in groups[start.group : end.group])


def require_whole(span: Span, groups: Sequence[Group], *, position: Position, path: str) -> None:
    """DataError, in the name of `path`, where reading a part ended elsewhere than when the corpus was measured."""
    if text_between(span.start, position, groups) != span.text_bytes:
        raise DataError(f"{path}: the input changed while it was being prepared; prepare it again")


def _file_positions(groups: Sequence[Group], file_bytes: Sequence[Sequence[int]]) -> list[Position]:
    """The position of every file's first byte."""
    found = []
    for number, (group, sizes) in enumerate(zip(groups, file_bytes, strict=True)):
        for file, total in enumerate([0, *accumulate(sizes)][:-1]):
            split = min(bisect_right(group.ends, total), len(group.ends) - 1)
            found.append(Position(number, split, file, 0, total))
    return found
