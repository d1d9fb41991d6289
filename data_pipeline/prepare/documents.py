"""Where documents begin and end in a file: by file, blank line, separator, JSON record, parquet row or image.

Text that is not cut out of records is passed on whole: document ends are positions beside it.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from data_pipeline.errors import DataError
from data_pipeline.image_shape import ImageShape, Kind
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.sources import SourceFile, text_blocks

DocumentMode = Literal["auto", "file", "blank-line", "separator", "jsonl", "parquet"]
Broken = Literal["fail", "skip"]
DOCUMENT_MODES: tuple[str, ...] = get_args(DocumentMode)
_JSONL_NAMES = (".jsonl", ".ndjson", ".jsonlines")
_PACKED_NAMES = (".gz", ".xz", ".zst", ".bz2")


class Text(NamedTuple):
    """A non-empty stretch of text; `ends_document` when a document ends with its last byte."""

    data: bytes
    ends_document: bool


@dataclass(frozen=True)
class DocumentOptions:
    """How documents are found; `auto` tells jsonl and parquet by the file's name, anything else is one document."""

    mode: DocumentMode = "auto"
    separator: str = ""  # ends a document and stays in its text
    field: str = "text"  # of a record; dots lead into nested ones
    record_end: str = ""  # appended to every record's text
    broken: Broken = "fail"  # records that cannot be read
    image_shape: ImageShape | None = None  # the inputs are images, each a document of that shape; the rest is for text

    @property
    def kind(self) -> Kind:
        """What the inputs are."""
        return "text" if self.image_shape is None else "images"

    @property
    def unit_bytes(self) -> int:
        """A split is cut at multiples of this: whole images, or anywhere in a text."""
        return 1 if self.image_shape is None else self.image_shape.num_bytes

    def mode_of(self, file: SourceFile) -> DocumentMode:
        """The mode of one file."""
        if self.mode != "auto":
            return self.mode
        name = file.name.lower()
        for ending in _PACKED_NAMES:
            name = name.removesuffix(ending)
        if name.endswith(".parquet"):
            return "parquet"
        return "jsonl" if name.endswith(_JSONL_NAMES) else "file"


def documents_of(file: SourceFile, *, options: DocumentOptions, report: Report) -> Iterator[Text]:
    """The text of `file` in order, with the ends of its documents; the file's end is always one.

    DataError with file and record when one cannot be read and `options.broken` is fail; else it is counted.
    """
    if options.image_shape is not None:
        return _image_texts(file, options.image_shape)
    readers: dict[str, Callable[[], Iterator[Text]]] = {
        "file": lambda: _with_last_marked(text_blocks(file)),
        "blank-line": lambda: _cut_after(text_blocks(file), b"\n\n", swallow=b"\n"),
        "separator": lambda: _cut_after(text_blocks(file), _separator(options)),
        "jsonl": lambda: _record_texts(_json_records(file), file, options=options, report=report),
        "parquet": lambda: _record_texts(_parquet_records(file, options.field), file, options=options, report=report),
    }
    return readers[options.mode_of(file)]()


def _image_texts(file: SourceFile, shape: ImageShape) -> Iterator[Text]:
    from data_pipeline.prepare.images import images_of  # with numpy, which the command line can do without

    return (Text(image.data, ends_document=True) for image in images_of(file, shape=shape))


def _separator(options: DocumentOptions) -> bytes:
    if not options.separator:
        raise DataError("--documents separator needs --separator TEXT")
    return options.separator.encode()


def _with_last_marked(blocks: Iterator[bytes]) -> Iterator[Text]:
    """Hold one block back, so that the end is marked on text and never on nothing."""
    held = b""
    for block in blocks:
        if held:
            yield Text(held, ends_document=False)
        held = block
    if held:
        yield Text(held, ends_document=True)


def _cut_after(blocks: Iterator[bytes], mark: bytes, *, swallow: bytes = b"") -> Iterator[Text]:
    """End a document after each `mark` and any `swallow` bytes that follow; a mark may lie across two blocks."""
    held = b""
    for block in blocks:
        held += block
        start = 0
        while (found := held.find(mark, start)) >= 0:
            end = found + len(mark)
            while swallow and held[end : end + 1] == swallow:
                end += 1
            if swallow and end == len(held):
                break  # more of them may follow in the next block
            yield Text(held[start:end], ends_document=True)
            start = end
        held, passed = _keep_for_next(held, start, mark)
        if passed:
            yield Text(passed, ends_document=False)
    if held:
        yield Text(held, ends_document=True)


def _keep_for_next(held: bytes, start: int, mark: bytes) -> tuple[bytes, bytes]:
    """(what may still hold a mark or the end, what certainly does not)."""
    found = held.find(mark, start)
    keep_from = found if found >= 0 else max(len(held) - len(mark), start)
    return held[keep_from:], held[start:keep_from]


def _record_texts(
    records: "Iterator[tuple[str, Any]]", file: SourceFile, *, options: DocumentOptions, report: Report
) -> Iterator[Text]:
    """One document per record; a record is (where it is, its value or the reason why there is none)."""
    end = options.record_end.encode()
    for where, value in records:
        text = _field(value, options.field)
        if isinstance(text, DataError):
            problem = f"{file.path}: {where}: {text}"
            if options.broken == "fail":
                raise DataError(f"{problem}; mend it, or leave such records out with --broken skip")
            report.add("broken records left out", problem)
        elif not text:
            report.add("empty documents", f"{file.path}: {where}")
        else:
            yield Text(text.encode("utf-8", "surrogatepass") + end, ends_document=True)


def _field(value: Any, path: str) -> str | DataError:
    if isinstance(value, DataError):
        return value
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            there = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
            return DataError(f"no field {path!r} (there: {there[:80]})")
        value = value[name]
    return value if isinstance(value, str) else DataError(f"field {path!r} is {type(value).__name__}, not text")


def _json_records(file: SourceFile) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_lines(text_blocks(file)), start=1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except ValueError as error:
            yield f"line {number}", DataError(f"not JSON ({error})")


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


def _parquet_records(file: SourceFile, field: str) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{file.path}: parquet needs pyarrow; pip install pyarrow") from None
    number = 0
    try:
        with file.open_stored() as stored:
            table = pyarrow.parquet.ParquetFile(stored)
            for batch in table.iter_batches(batch_size=256, columns=[field]):
                for value in batch.to_pylist():
                    number += 1
                    yield f"row {number}", value
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file.path}: cannot be read after row {number}: {reason}") from None
