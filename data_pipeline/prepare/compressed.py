"""What a stored file holds once unpacked: gz, bz2, xz, lzma, zst or plain, told apart by content, as one stream.

A compressed file is a row of streams (members, frames). What may stand between and behind them is the format's own
rule; anything else is an error with its offset, for a reader that takes it for the end has lost the rest. Output comes
in bounded blocks, however well a file is compressed.

Sources: RFC 1952 (gzip), RFC 8878 (zstd; 3.1.1 frames and blocks, 3.1.2 skippable frames), the .xz file format 1.2.0
(2.2 stream padding), and for .lzma and .bz2 what xz and bzip2 themselves accept.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from data_pipeline.prepare.file_kinds import (
    HEAD_BYTES,
    ZSTD_MAGIC,
    Packing,
    broken_promise,
    is_skippable_frame,
    other_kind,
    packing_of,
)

BLOCK_BYTES = 1 << 20  # of text that leaves a decompressor at once
_FEED_BYTES = 1 << 17  # of stored bytes that enter it


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int = -1, /) -> bytes: ...


class DamageError(ValueError):
    """A stored file that is not what its format says, from byte `offset` of it on."""

    def __init__(self, reason: str, *, offset: int, of: str = "the stored file") -> None:
        self.reason, self.offset = reason, offset
        super().__init__(f"at byte {offset} of {of}: {reason}")


class _Feed:
    """The stored bytes in order, and where the next one lies; what a stream did not use goes back."""

    def __init__(self, stored: Readable) -> None:
        self._stored, self._back, self.offset = stored, b"", 0

    def head(self, size: int = HEAD_BYTES) -> bytes:
        """The next `size` bytes without taking them, fewer only at the end of the file."""
        while len(self._back) < size and (more := self._stored.read(size - len(self._back))):
            self._back += more
        return self._back[:size]

    def take(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end of the file only."""
        taken, self._back = (self._back[:size], self._back[size:]) if self._back else (self._stored.read(size), b"")
        self.offset += len(taken)
        return taken

    def give_back(self, unused: bytes) -> None:
        self._back = unused + self._back
        self.offset -= len(unused)

    def exactly(self, size: int, *, what: str) -> bytes:
        start, parts = self.offset, [self.take(size)]
        while (missing := size - sum(map(len, parts))) and parts[-1]:
            parts.append(self.take(missing))
        if missing:
            raise DamageError(f"the file ends in the middle of a {what}", offset=start)
        return b"".join(parts)

    def skip_zeros(self) -> int:
        """How many there were."""
        count = 0
        while taken := self.take(_FEED_BYTES):
            rest = taken.lstrip(b"\0")
            count += len(taken) - len(rest)
            if rest:
                self.give_back(rest)
                break
        return count


def unpacked(stored: Readable) -> Iterator[bytes]:
    """Non-empty blocks of at most BLOCK_BYTES of what `stored` holds. DamageError when it is cut off or damaged."""
    return _unpacked(_Feed(stored))


def _unpacked(feed: _Feed) -> Iterator[bytes]:
    packing = packing_of(feed.head())
    return _plain(feed) if packing is None else _zstd(feed) if packing == "zstd" else _in_a_row(feed, _ROWS[packing])


def text_of(stored: Readable, *, name: str) -> Iterator[bytes]:
    """As `unpacked`; ValueError when that is no text but an archive, or something packed that is not read.

    What a file's `name` promises in vain is one, too, unless the file is readable as it is.
    """
    feed = _Feed(stored)
    if problem := broken_promise(feed.head(), name=name):
        raise ValueError(problem)
    blocks, head = _unpacked(feed), b""
    for block in blocks:
        head += block
        if len(head) >= HEAD_BYTES:
            break
    if found := other_kind(head[:HEAD_BYTES]):
        raise ValueError(found)
    if head:
        yield head
    yield from blocks


def _plain(feed: _Feed) -> Iterator[bytes]:
    head = feed.take(HEAD_BYTES)
    if first := head + feed.take(BLOCK_BYTES - len(head)):
        yield first
    while block := feed.take(BLOCK_BYTES):
        yield block


class _Decompressor(Protocol):
    """What bz2 and lzma have."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """One gzip member; zlib checks its header, length and checksum."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail or data, max_length)


class _Row(NamedTuple):
    """How streams of a format follow one another."""

    packing: Packing
    new: Callable[[], Any]  # a _Decompressor of one stream
    padding_unit: int = 0  # zeros between and behind streams come in multiples of this; 0: there are none
    repeats: bool = True


def _in_a_row(feed: _Feed, row: _Row) -> Iterator[bytes]:
    name = row.packing
    while True:
        yield from _stream(feed, row.new(), what=f"{name} stream")
        end = feed.offset
        if row.padding_unit and feed.skip_zeros() % row.padding_unit:
            raise DamageError(f"the zeros behind the {name} stream are no multiple of four", offset=end)
        head = feed.head()
        if not head:
            return
        if not row.repeats or packing_of(head) != name:
            raise DamageError(f"what follows the {name} stream is no {name}", offset=feed.offset)


def _stream(feed: _Feed, decompressor: _Decompressor, *, what: str) -> Iterator[bytes]:
    start = feed.offset
    while not decompressor.eof:
        data = b""
        if decompressor.needs_input:
            start, data = feed.offset, feed.take(_FEED_BYTES)
            if not data:
                raise DamageError(f"the file ends in the middle of a {what}", offset=start)
        try:
            block = decompressor.decompress(data, BLOCK_BYTES)
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError, MemoryError) as error:
            said = f"{str(error) or type(error).__name__}, in the {feed.offset - start} bytes from there"
            raise DamageError(f"a damaged {what} ({said})", offset=start) from None
        if block:
            yield block
    feed.give_back(decompressor.unused_data)


def _zstd(feed: _Feed) -> Iterator[bytes]:
    """All frames; those that hold no text, as pzstd writes them, may stand anywhere."""
    while head := feed.head(4):
        if is_skippable_frame(head):
            left = int.from_bytes(feed.exactly(8, what="skippable zstd frame")[4:], "little")
            while left:
                left -= len(feed.exactly(min(left, BLOCK_BYTES), what="skippable zstd frame"))
        elif head == ZSTD_MAGIC:
            yield from _zstd_frame(feed)
        else:
            raise DamageError("what follows the zstd frame is no zstd", offset=feed.offset)


def _zstd_frame(feed: _Feed) -> Iterator[bytes]:
    """Block by block: none holds more than 128 KiB of text, and the last one says that it is.

    zstandard's own reader takes a frame that is cut off for the end of the text.
    """
    import zstandard

    decompressor = zstandard.ZstdDecompressor().decompressobj()

    def fed(data: bytes, offset: int) -> bytes:
        try:
            return decompressor.decompress(data)
        except (zstandard.ZstdError, MemoryError) as error:
            hint = "; give the input as 'pipe:zstd -dc --long=31 FILE'" if "memory" in str(error) else ""
            raise DamageError(f"a damaged zstd frame ({error}){hint}", offset=offset) from None

    start, is_last = feed.offset, False
    head = feed.head(5)
    descriptor = head[4] if len(head) == 5 else 0
    yield from filter(None, [fed(feed.exactly(_zstd_header_bytes(descriptor), what="zstd frame"), start)])
    while not is_last:
        start = feed.offset
        header = feed.exactly(3, what="zstd frame")
        word = int.from_bytes(header, "little")
        is_last, is_repeated_byte, size = bool(word & 1), word >> 1 & 3 == 1, word >> 3
        stored = feed.exactly(1 if is_repeated_byte else size, what="zstd frame")
        if block := fed(header + stored, start):
            yield block
    if descriptor & 4:
        start = feed.offset
        yield from filter(None, [fed(feed.exactly(4, what="zstd frame"), start)])
    if not decompressor.eof:
        raise DamageError("a damaged zstd frame (it does not end with its last block)", offset=start)


def _zstd_header_bytes(descriptor: int) -> int:
    """Of a frame's header, the magic number included."""
    is_single_segment = descriptor >> 5 & 1
    content_size = (is_single_segment, 2, 4, 8)[descriptor >> 6]
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    return len(ZSTD_MAGIC) + 1 + (1 - is_single_segment) + dictionary + content_size


_ROWS: dict[Packing, _Row] = {
    "gzip": _Row("gzip", _Gzip, padding_unit=1),
    "bzip2": _Row("bzip2", bz2.BZ2Decompressor),
    "xz": _Row("xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), padding_unit=4),
    "lzma": _Row("lzma", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE), repeats=False),
}


class BlockStream(io.RawIOBase):
    """Blocks as a file that can be read once, forwards."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._held = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            self._held = memoryview(next(self._blocks, b""))
            if not self._held:
                return 0
        count = min(len(buffer), len(self._held))
        buffer[:count] = self._held[:count]
        self._held = self._held[count:]
        return count
