"""The corpus as a deterministic stream of small pieces, each in one split, startable at any piece.

Where a piece ends depends on the text alone, never on how files are read, so workers may encode pieces in any order
and a later process may begin in the middle.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from data_pipeline.errors import DataError
from data_pipeline.prepare.corpus import Reading
from data_pipeline.prepare.documents import Text
from data_pipeline.prepare.sources import SourceFile

MAX_PIECE_BYTES = 1 << 18


class Position(NamedTuple):
    """The next byte of the corpus: its group and split, its file, offset in the file's text and in the group's text."""

    group: int = 0
    split: int = 0
    file: int = 0
    offset: int = 0
    total: int = 0


@dataclass(frozen=True)
class Group:
    """Files read as one text that is cut into consecutive splits; `ends` are the cuts in bytes of that text."""

    files: tuple[SourceFile, ...]
    splits: tuple[str, ...]
    ends: tuple[int, ...]


class Piece(NamedTuple):
    """Text of one split to encode on its own; `document_ends` are byte offsets in `data`, each > 0.

    `origins`: where in the corpus the text from an offset on lies, up to the next offset.
    """

    split: str
    data: bytes
    document_ends: tuple[int, ...]
    origins: tuple[tuple[int, Position], ...]
    after: Position

    @property
    def start(self) -> Position:
        return self.origins[0][1]

    def position(self, offset: int) -> Position:
        """Where in the corpus a byte of the text lies."""
        return _position(self.origins, offset)


def _position(origins: Sequence[tuple[int, Position]], offset: int) -> Position:
    begin, origin = next(entry for entry in reversed(origins) if entry[0] <= offset)
    return origin._replace(offset=origin.offset + offset - begin, total=origin.total + offset - begin)


@dataclass
class _Pending:
    """Text read but not yet cut into a piece, and where in the corpus its parts came from."""

    data: bytearray = field(default_factory=bytearray)
    document_ends: list[int] = field(default_factory=list)
    origins: list[tuple[int, Position]] = field(default_factory=list)

    def append(self, text: Text, origin: Position) -> None:
        here = len(self.data)
        if not self.origins or _position(self.origins, here) != origin:
            self.origins = [entry for entry in self.origins if entry[0] < here] + [(here, origin)]
        self.data += text.data
        if text.ends_document:
            self.document_ends.append(len(self.data))

    def take(self, size: int, *, split: str, is_last: bool) -> Piece:
        after = _position(self.origins, size)
        ends = [end for end in self.document_ends if end <= size]
        if is_last and (not ends or ends[-1] != size):
            ends.append(size)  # a split ends the document it cuts through
        origins = tuple(entry for entry in self.origins if entry[0] < size)
        piece = Piece(split, bytes(self.data[:size]), tuple(ends), origins, after)
        kept = [entry for entry in self.origins if entry[0] > size]
        self.origins = [(0, after), *((begin - size, origin) for begin, origin in kept)]
        self.document_ends = [end - size for end in self.document_ends if end > size]
        del self.data[:size]
        return piece


def pieces(
    groups: Sequence[Group],
    *,
    reading: Reading,
    start: Position,
    end: tuple[int, int] | None = None,
    piece_bytes: int = MAX_PIECE_BYTES,
    cut_anywhere: bool = False,
) -> Iterator[Piece]:
    """All pieces from `start` on, up to file `end` = (group, file) if given.

    Splits are cut at whole UTF-8 characters unless `cut_anywhere`.
    """
    end_group, end_file = end or (len(groups), 0)
    for number in range(start.group, min(end_group + 1, len(groups))):
        begin = start if number == start.group else Position(group=number)
        stop = end_file if number == end_group else len(groups[number].files)
        texts = _split_texts(groups[number], reading=reading, start=begin, stop=stop, cut_anywhere=cut_anywhere)
        yield from _cut(texts, names=groups[number].splits, piece_bytes=piece_bytes)


def _split_texts(
    group: Group, *, reading: Reading, start: Position, stop: int, cut_anywhere: bool
) -> Iterator[tuple[Text, Position]]:
    """Texts with the position of their first byte, cut where a split ends."""
    split, total = start.split, start.total
    for text, file, offset in _texts(group, reading=reading, start=start, stop=stop):
        data, begin = text.data, 0
        while begin < len(data):
            size = _until_split_end(data, begin, left=group.ends[split] - total, cut_anywhere=cut_anywhere)
            if size == 0:
                split = _next_split(group, split)
                continue
            ends = text.ends_document and begin + size == len(data)
            yield Text(data[begin : begin + size], ends), Position(start.group, split, file, offset + begin, total)
            begin, total = begin + size, total + size


def _next_split(group: Group, split: int) -> int:
    if split + 1 == len(group.splits):
        raise DataError(f"{group.files[-1].path}: the input grew while it was being prepared; prepare it again")
    return split + 1


def _until_split_end(data: bytes, begin: int, *, left: int, cut_anywhere: bool) -> int:
    """Bytes of data[begin:] that still belong to the split, which has `left` bytes to go (<= 0: its end is reached)."""
    end = begin + max(left, 0)
    past = max(-left, 0)
    while not cut_anywhere and past < 3 and end < len(data) and data[end] & 0xC0 == 0x80:
        end, past = end + 1, past + 1
    return min(end, len(data)) - begin


def _texts(group: Group, *, reading: Reading, start: Position, stop: int) -> Iterator[tuple[Text, int, int]]:
    """(text, file number, offset of its first byte in the file's text) from `start` on."""
    for number in range(start.file, stop):
        skip = start.offset if number == start.file else 0
        offset = 0
        for text in reading.texts(group.files[number], group=start.group, number=number):
            dropped = min(max(skip - offset, 0), len(text.data))
            if dropped < len(text.data):
                yield text._replace(data=text.data[dropped:]), number, offset + dropped
            offset += len(text.data)


def _cut(texts: Iterator[tuple[Text, Position]], *, names: Sequence[str], piece_bytes: int) -> Iterator[Piece]:
    pending = _Pending()
    split = -1
    for text, origin in texts:
        if origin.split != split and pending.data:
            yield pending.take(len(pending.data), split=names[split], is_last=True)
        if origin.split != split:
            pending, split = _Pending(), origin.split
        pending.append(text, origin)
        while len(pending.data) > piece_bytes:
            yield pending.take(_cut_point(pending.data, piece_bytes), split=names[split], is_last=False)
    if pending.data:
        yield pending.take(len(pending.data), split=names[split], is_last=True)


def _cut_point(data: bytearray, limit: int) -> int:
    """After the last line that fits; in a line longer than that, before the character that does not."""
    line_end = data.rfind(b"\n", 0, limit) + 1
    if line_end:
        return line_end
    for back in range(min(4, limit)):
        if data[limit - back] & 0xC0 != 0x80:
            return limit - back
    return limit
