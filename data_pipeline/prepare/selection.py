"""Which documents are left out: broken files, documents too long or too bad, filtered or duplicate ones.

Decided once, in corpus order, before anything is measured; every later pass leaves out the same numbers.
"""

import json
from collections.abc import Iterator, Sequence

from data_pipeline.errors import DataError
from data_pipeline.prepare.corpus import LeftOut
from data_pipeline.prepare.documents import DocumentOptions, Text, documents_of
from data_pipeline.prepare.filters import DocumentFilters, Filters
from data_pipeline.prepare.progress import Progress
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.sources import SourceFile
from data_pipeline.prepare.text_policy import TextPolicy, bad_places

FILE_NAME = "prepare.left_out"
LARGEST_DOCUMENT_BYTES = 1 << 30  # that is ever held in memory, to be judged as a whole


def select(
    groups: Sequence[Sequence[SourceFile]],
    *,
    documents: DocumentOptions,
    policy: TextPolicy,
    filters: Filters,
    report: Report,
    progress: Progress,
) -> LeftOut:
    """What is left out of each file; nothing is read when no option asks for it."""
    judge = _Judge(policy, DocumentFilters(filters))
    if not judge.judges and documents.broken == "fail":
        return {}
    progress.begin("selecting documents")
    left_out: dict[tuple[int, int], frozenset[int] | None] = {}
    for group, files in enumerate(groups):
        for number, file in enumerate(files):
            dropped = _left_out_of(file, documents=documents, judge=judge, report=report, progress=progress)
            if dropped != frozenset():
                left_out[group, number] = dropped
    return left_out


def _left_out_of(
    file: SourceFile, *, documents: DocumentOptions, judge: "_Judge", report: Report, progress: Progress
) -> frozenset[int] | None:
    dropped: set[int] = set()
    number = size = 0
    parts: list[bytes] | None = []
    try:
        for text in documents_of(file, options=documents, report=Report()):
            size += len(text.data)
            parts = judge.hold(parts, text, size=size, path=file.path)
            progress.advance(source_bytes=len(text.data), documents=int(text.ends_document))
            if text.ends_document:
                reason = judge.reason(parts, size=size, path=file.path) if judge.judges else None
                if reason:
                    dropped.add(number)
                    report.add(reason, f"{file.path}: document {number + 1}")
                number, size, parts = number + 1, 0, []
    except DataError as error:
        if documents.broken == "fail":
            raise
        report.add("broken files left out", str(error))
        return None
    return frozenset(dropped)


class _Judge:
    """Says why a document is left out, None when it is kept."""

    def __init__(self, policy: TextPolicy, filters: DocumentFilters) -> None:
        self._policy, self._filters = policy, filters
        limited = policy.max_document_bytes is not None and policy.long_documents != "split"
        self._max_bytes = policy.max_document_bytes if limited else None
        self._needs_whole = policy.bad_text == "skip" or filters.any
        self.judges = limited or self._needs_whole

    def hold(self, parts: list[bytes] | None, text: Text, *, size: int, path: str) -> list[bytes] | None:
        """The document so far; None once it is too long to matter."""
        if not self._needs_whole or parts is None or (self._max_bytes is not None and size > self._max_bytes):
            return None
        if size > LARGEST_DOCUMENT_BYTES:
            raise DataError(f"{path}: a document above {LARGEST_DOCUMENT_BYTES} bytes; set --max-document-bytes")
        return [*parts, text.data] if parts else [text.data]

    def reason(self, parts: list[bytes] | None, *, size: int, path: str) -> str | None:
        """Why the document is left out; DataError when the policy is to fail."""
        if self._max_bytes is not None and size > self._max_bytes:
            if self._policy.long_documents == "fail":
                raise DataError(f"{path}: a document of {size} bytes, --max-document-bytes is {self._max_bytes}")
            return "documents left out: too long"
        if not self._needs_whole:
            return None
        data = b"".join(parts or [])
        if self._policy.bad_text == "skip" and bad_places(data):
            return "documents left out: not UTF-8"
        found = self._filters.reason(data)
        return found and f"documents left out: {found}"


def write_left_out(left_out: LeftOut) -> bytes:
    """The content of the file that `--resume` reads it back from."""
    lines = [
        json.dumps([group, number, None if dropped is None else sorted(dropped)])
        for (group, number), dropped in sorted(left_out.items())
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def read_left_out(content: bytes) -> LeftOut:
    """The inverse of `write_left_out`."""
    return dict(_entries(content))


def _entries(content: bytes) -> Iterator[tuple[tuple[int, int], frozenset[int] | None]]:
    for line in content.splitlines():
        group, number, dropped = json.loads(line)
        yield (group, number), None if dropped is None else frozenset(dropped)
