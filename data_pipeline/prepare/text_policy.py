"""Bytes that are no UTF-8, and documents that are too long: kept, mended, left out or refused, and always counted."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from data_pipeline.errors import DataError
from data_pipeline.prepare.documents import Text
from data_pipeline.prepare.report import Report

BadText = Literal["keep", "replace", "skip", "fail"]
LongDocuments = Literal["skip", "split", "fail"]


@dataclass(frozen=True)
class TextPolicy:
    """`keep` is lossless: both tokenizers carry any byte. `skip` leaves the whole document out."""

    bad_text: BadText = "keep"
    max_document_bytes: int | None = None
    long_documents: LongDocuments = "skip"

    @property
    def replaces(self) -> bool:
        return self.bad_text == "replace"

    @property
    def split_bytes(self) -> int | None:
        """Longest document, where longer ones are split."""
        return self.max_document_bytes if self.long_documents == "split" else None


def bad_places(data: bytes) -> tuple[int, int] | None:
    """(position of the first byte that is no UTF-8, number of such places), None when all is well."""
    try:
        data.decode()
        return None
    except UnicodeDecodeError as error:
        return error.start, data.decode(errors="replace").count("\ufffd") - data.count(b"\xef\xbf\xbd")


def counted(texts: Iterator[Text], *, path: str, policy: TextPolicy, report: Report) -> Iterator[Text]:
    """The texts unchanged; bad UTF-8 is added to the report, or raised as DataError when the policy says fail."""
    position, held = 0, b""
    for text in texts:
        whole = held + text.data
        size = len(whole) if text.ends_document else _complete(whole)
        found = bad_places(whole[:size])
        if found:
            where = f"{path}: byte {position - len(held) + found[0]} of its text"
            if policy.bad_text == "fail":
                raise DataError(f"{where} is not UTF-8; mend it, or choose --bad-text keep, replace or skip")
            report.add("places that are no UTF-8", where, count=found[1])
        position, held = position + len(text.data), whole[size:]
        yield text


def replaced(texts: Iterator[Text]) -> Iterator[Text]:
    """Every undecodable place becomes U+FFFD, the same for any block size."""
    held = b""
    for text in texts:
        whole = held + text.data
        size = len(whole) if text.ends_document else _complete(whole)
        held = whole[size:]
        if size:
            yield Text(whole[:size].decode(errors="replace").encode(), text.ends_document)


def split_long(texts: Iterator[Text], *, limit: int) -> Iterator[Text]:
    """Documents of at most `limit` bytes (a character more where one would be cut)."""
    room = limit
    for text in texts:
        data = text.data
        while len(data) >= room:
            size = room + _to_character(data, room)
            yield Text(data[:size], ends_document=True)
            data, room = data[size:], limit
        if data:
            yield Text(data, text.ends_document)
        room = limit if text.ends_document else room - len(data)


def _to_character(data: bytes, position: int) -> int:
    """Bytes from `position` to the next one that begins a character."""
    for more in range(4):
        if position + more >= len(data) or data[position + more] & 0xC0 != 0x80:
            return more
    return 0


def _complete(data: bytes) -> int:
    """Length without a last character whose bytes have not all been seen."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            needed = 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)
            return len(data) - back if needed > back else len(data)
    return len(data)
