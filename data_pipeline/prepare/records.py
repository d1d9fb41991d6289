"""Records with a text: JSON lines, tables (CSV, TSV) and parquet rows; what cannot be read is said of each record."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, cast

from data_pipeline.errors import DataError
from data_pipeline.prepare.compressed import BlockStream
from data_pipeline.prepare.sources import SourceFile, seekable, text_blocks

_LONGEST_CELL = 1 << 30  # characters; a quote that is never closed would take the rest of the file
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ESCAPES = "surrogateescape"  # bytes that are no UTF-8 come back as they were


class Record(NamedTuple):
    """Where a record is in its file, and its text or the reason why there is none."""

    where: str
    text: bytes | DataError


def json_records(blocks: Iterator[bytes], *, field: str) -> Iterator[Record]:
    """One a line; blank lines are none."""
    for number, line in enumerate(_lines(blocks), start=1):
        data = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
        if data.strip():
            value = _parsed(data)
            yield Record(f"line {number}", _field(value, field) if not isinstance(value, DataError) else value)


def holds_json_lines(head: bytes, *, field: str, is_whole: bool) -> bool | None:
    """Whether a text that begins with `head`, or is it, is JSON lines; None when more of it is needed to tell.

    The first line must be a complete object, and have the field or be followed by another.
    """
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if text and not text.startswith(b"{"):
        return False
    line, _, rest = text.partition(b"\n")
    if not rest.lstrip() and not is_whole:
        return None
    value = _parsed(line)
    if isinstance(value, DataError) and value.problems[0] != _TOO_DEEP:
        return False
    return rest.lstrip().startswith(b"{") or not isinstance(_field(value, field), DataError)


_TOO_DEEP = "JSON nested too deeply to be read"


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return DataError(f"not JSON ({error})")
    except RecursionError:
        return DataError(_TOO_DEEP)


def _field(value: Any, path: str) -> bytes | DataError:
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            there = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
            return DataError(f"no field {path!r} (there: {there[:80]})")
        value = value[name]
    if not isinstance(value, str):
        return DataError(f"field {path!r} is {type(value).__name__}, not text")
    return value.encode("utf-8", "surrogatepass")


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    parts: list[bytes] = []
    for block in blocks:
        *complete, rest = block.split(b"\n")
        for line in complete:
            yield b"".join([*parts, line])
            parts = []
        parts.append(rest)
    if last := b"".join(parts):
        yield last


def delimiter_of(head: bytes, *, field: str, name: str) -> str | None:
    """What separates the columns of a table that begins with `head`; None when its header has no column `field`."""
    for delimiter in "\t" if name.endswith(".tsv") else ",\t;":
        try:
            if field in next(_rows(iter([head.removeprefix(_BYTE_ORDER_MARK)]), delimiter), ()):
                return delimiter
        except csv.Error:
            continue
    return None


def csv_records(blocks: Iterator[bytes], *, field: str, delimiter: str) -> Iterator[Record]:
    """The column `field` of every row below the header (RFC 4180: quotes hold delimiters and line ends)."""
    rows = _rows(blocks, delimiter)
    header: list[str] = [name.removeprefix("\ufeff") for name in next(rows)]
    column = header.index(field)
    while True:
        where = f"line {rows.line_num + 1}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(where, DataError(f"not CSV ({error})"))
            continue
        if len(row) == len(header):
            yield Record(where, row[column].encode("utf-8", _ESCAPES))
        elif row:
            yield Record(where, DataError(f"{len(row)} columns, the header has {len(header)}"))


def _rows(blocks: Iterator[bytes], delimiter: str) -> Any:
    csv.field_size_limit(_LONGEST_CELL)
    stream = io.BufferedReader(BlockStream(blocks))
    text = io.TextIOWrapper(cast(BinaryIO, stream), encoding="utf-8", errors=_ESCAPES, newline="")
    return csv.reader(text, delimiter=delimiter, strict=True)


def parquet_records(file: SourceFile, *, field: str) -> Iterator[Record]:
    """The column `field` of every row; `a.b` leads inside."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{file.path}: parquet needs pyarrow; pip install pyarrow") from None
    number = 0
    try:
        with _parquet_stream(file) as stream, seekable(stream) as stored:
            table = pyarrow.parquet.ParquetFile(stored)
            for batch in table.iter_batches(batch_size=256, columns=[field]):
                for value in batch.to_pylist():
                    number += 1
                    yield Record(f"row {number}", _field(value, field))
    except DataError:  # of a remote or unreadable file: says all there is to say
        raise
    except (OSError, ValueError, KeyError, MemoryError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file.path}: cannot be read after row {number}: {reason}") from None


def _parquet_stream(file: SourceFile) -> BinaryIO:
    """As stored, or unpacked where a whole parquet file was compressed."""
    stored = file.open_stored()
    if cast(Any, stored).peek(4).startswith(b"PAR1"):
        return stored
    stored.close()
    return cast(BinaryIO, io.BufferedReader(BlockStream(text_blocks(file))))
