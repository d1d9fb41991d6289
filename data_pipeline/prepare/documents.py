"""Where documents begin and end in a file: by file, blank line, separator, record of JSON, CSV or parquet, or image.

Text that is not cut out of records is passed on whole: document ends are positions beside it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal, NamedTuple, get_args

from data_pipeline.errors import DataError
from data_pipeline.image_shape import ImageShape, Kind
from data_pipeline.prepare.file_kinds import PACKED_NAMES
from data_pipeline.prepare.records import (
    Record,
    csv_records,
    delimiter_of,
    holds_json_lines,
    json_records,
    parquet_records,
)
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.sources import SourceFile, text_blocks

DocumentMode = Literal["auto", "file", "blank-line", "separator", "jsonl", "csv", "parquet"]
Broken = Literal["fail", "skip"]
DOCUMENT_MODES: tuple[str, ...] = get_args(DocumentMode)
_JSONL_NAMES = (".jsonl", ".ndjson", ".jsonlines")
_CSV_NAMES = (".csv", ".tsv")
_HEAD_BYTES = 1 << 16  # of a table, which hold its header
_LONGEST_LINE_BYTES = 1 << 28  # that is looked at to tell JSON lines from other JSON


class Text(NamedTuple):
    """A non-empty stretch of text; `ends_document` when a document ends with its last byte."""

    data: bytes
    ends_document: bool


@dataclass(frozen=True)
class DocumentOptions:
    """How documents are found; `auto` tells records by the file's name, .json and .csv by their content, too.

    Anything else is one document.
    """

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


def documents_of(file: SourceFile, *, options: DocumentOptions, report: Report) -> Iterator[Text]:
    """The text of `file` in order, with the ends of its documents; the file's end is always one.

    DataError with file and record when one cannot be read and `options.broken` is fail; else it is counted.
    """
    if options.image_shape is not None:
        yield from _image_texts(file, options.image_shape)
        return
    mode, blocks = _mode_of(file, text_blocks(file), options)
    field = options.field
    records: dict[str, Callable[[], Iterator[Record]]] = {
        "jsonl": lambda: json_records(blocks, field=field),
        "csv": lambda: _table(file, blocks, field=field),
        "parquet": lambda: parquet_records(file, field=field),
    }
    texts: dict[str, Callable[[], Iterator[Text]]] = {
        "file": lambda: _with_last_marked(blocks),
        "blank-line": lambda: _cut_after(blocks, b"\n\n", swallow=b"\n"),
        "separator": lambda: _cut_after(blocks, _separator(options)),
    }
    if mode in texts:
        yield from texts[mode]()
    else:
        yield from _record_texts(records[mode](), file, options=options, report=report)


def _mode_of(
    file: SourceFile, blocks: Iterator[bytes], options: DocumentOptions
) -> tuple[DocumentMode, Iterator[bytes]]:
    """The mode of one file, and all its blocks."""
    if options.mode != "auto":
        return options.mode, blocks
    name = _unpacked_name(file)
    if name.endswith(".parquet"):
        return "parquet", blocks
    if name.endswith(_JSONL_NAMES):
        return "jsonl", blocks
    if name.endswith(".json"):
        judge = partial(holds_json_lines, field=options.field)
        return _told_by_content(blocks, judge, mode="jsonl")
    if name.endswith(_CSV_NAMES):
        return _told_by_content(blocks, partial(_is_table, name=name, field=options.field), mode="csv")
    return "file", blocks


def _unpacked_name(file: SourceFile) -> str:
    name = file.name.lower()
    for ending in PACKED_NAMES:
        name = name.removesuffix(ending)
    return name


def _told_by_content(
    blocks: Iterator[bytes], judge: Callable[..., bool | None], *, mode: DocumentMode
) -> tuple[DocumentMode, Iterator[bytes]]:
    """`mode` if `judge` says so of the text's beginning; it is given more while it says None, up to a limit."""
    held: list[bytes] = []
    head, asked_at = bytearray(), _HEAD_BYTES
    verdict: bool | None = None
    for block in blocks:
        held.append(block)
        head += block
        if len(head) >= asked_at:  # each time twice as much: the whole is looked at once or twice
            verdict, asked_at = judge(bytes(head), is_whole=False), 2 * len(head)
            if verdict is not None or len(head) > _LONGEST_LINE_BYTES:
                break
    else:
        verdict = judge(bytes(head), is_whole=True)
    return (mode if verdict else "file"), chain(held, blocks)


def _is_table(head: bytes, *, name: str, field: str, is_whole: bool) -> bool:
    return delimiter_of(head, field=field, name=name) is not None


def _table(file: SourceFile, blocks: Iterator[bytes], *, field: str) -> Iterator[Record]:
    held: list[bytes] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) >= _HEAD_BYTES:
            break
    delimiter = delimiter_of(b"".join(held), field=field, name=_unpacked_name(file))
    if delimiter is None:
        first = b"".join(held).partition(b"\n")[0][:80].decode(errors="replace")
        raise DataError(f"{file.path}: its first line names no column {field!r} (there: {first.strip()})")
    return csv_records(chain(held, blocks), field=field, delimiter=delimiter)


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
    records: Iterator[Record], file: SourceFile, *, options: DocumentOptions, report: Report
) -> Iterator[Text]:
    """One document per record that can be read."""
    end = options.record_end.encode()
    for where, text in records:
        if isinstance(text, DataError):
            problem = f"{file.path}: {where}: {text}"
            if options.broken == "fail":
                raise DataError(f"{problem}; mend it, or leave such records out with --broken skip")
            report.add("broken records left out", problem)
        elif not text:
            report.add("empty documents", f"{file.path}: {where}")
        else:
            yield Text(text + end, ends_document=True)
