"""Where documents end in a file's text. The text itself is passed on whole: only positions are added."""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, get_args

from data_pipeline.sources import SourceFile, text_blocks

DocumentMode = Literal["file", "blank-line"]
DOCUMENT_MODES: tuple[str, ...] = get_args(DocumentMode)


class Text(NamedTuple):
    """A non-empty stretch of text; `ends_document` when a document ends with its last byte."""

    data: bytes
    ends_document: bool


def document_stream(file: SourceFile, *, mode: DocumentMode) -> Iterator[Text]:
    """The whole text of `file` in order, with the ends of its documents; the file's end is always one."""
    readers: dict[str, Callable[[SourceFile], Iterator[Text]]] = {
        "file": lambda source: _with_last_marked(text_blocks(source)),
        "blank-line": _blank_line_documents,
    }
    return readers[mode](file)


def _with_last_marked(blocks: Iterator[bytes]) -> Iterator[Text]:
    """Hold one block back, so that the end is marked on text and never on nothing."""
    held = b""
    for block in blocks:
        if held:
            yield Text(held, ends_document=False)
        held = block
    if held:
        yield Text(held, ends_document=True)


def _blank_line_documents(file: SourceFile) -> Iterator[Text]:
    """Empty lines belong to the document before them, so that the text stays complete."""
    for text in _with_last_marked(text_blocks(file)):
        yield from _cut_after_blank_lines(text)


def _cut_after_blank_lines(text: Text) -> Iterator[Text]:
    start = 0
    while (blank := text.data.find(b"\n\n", start)) >= 0:
        end = blank + 2
        while text.data[end : end + 1] == b"\n":
            end += 1
        yield Text(text.data[start:end], ends_document=True)
        start = end
    if start < len(text.data):
        yield Text(text.data[start:], text.ends_document)
