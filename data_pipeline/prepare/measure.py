"""The first reading of a corpus: how long it is, what it is (checksum), and a sample to train a tokenizer on."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import floor, log
from typing import NamedTuple

from data_pipeline.errors import DataError
from data_pipeline.prepare.corpus import Reading
from data_pipeline.prepare.progress import Progress
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.sources import SourceFile

SAMPLE_LINES = 100_000
SAMPLE_LINE_BYTES = 4096  # longer lines are cut; the sample never exceeds SAMPLE_LINES times this


class Line(NamedTuple):
    """A line of the sample, and where in the text it began."""

    offset: int
    text: bytes


class Reservoir:
    """A uniform sample of at most `size` lines of a stream (Li, "Reservoir-sampling algorithms", 1994, algorithm L)."""

    def __init__(self, size: int, *, seed: int = 0) -> None:
        self._size, self._random = size, random.Random(seed)
        self._weight = 1.0
        self._seen, self._next = 0, size
        self.lines: list[Line] = []

    def offer(self, line: Line) -> None:
        if len(self.lines) < self._size:
            self.lines.append(line)
            if len(self.lines) == self._size:
                self._skip()
        elif self._seen == self._next:
            self.lines[self._random.randrange(self._size)] = line
            self._next += 1
            self._skip()
        self._seen += 1

    def _skip(self) -> None:
        self._weight *= self._uniform() ** (1 / self._size)
        self._next += floor(log(self._uniform()) / log(1 - self._weight))

    def _uniform(self) -> float:
        return 1.0 - self._random.random()  # in (0, 1]: its logarithm is finite


@dataclass
class Measured:
    """One group of files: text bytes, documents, a checksum over names and contents, the sample."""

    text_bytes: int = 0
    documents: int = 0
    file_bytes: list[int] = field(default_factory=list)
    sha256: str = ""
    sample: list[Line] = field(default_factory=list)

    @property
    def record(self) -> dict[str, int | str]:
        """What dataset.json keeps of it."""
        names = ("text_bytes", "documents", "sha256")
        return {name: getattr(self, name) for name in names}


def measure(
    files: tuple[SourceFile, ...],
    *,
    reading: Reading,
    group: int,
    report: Report,
    progress: Progress,
    sample_lines: int = 0,
) -> Measured:
    """Read all `files` of a group once, as they will be read. DataError when there is no text at all."""
    measured, reservoir = Measured(), Reservoir(sample_lines) if sample_lines else None
    listing = hashlib.sha256()
    for number, file in enumerate(files):
        digest, before = hashlib.sha256(), measured.text_bytes
        for text in reading.texts(file, group=group, number=number, report=report):
            digest.update(text.data)
            if reservoir:
                _offer_lines(reservoir, text.data, begin=measured.text_bytes)
            measured.text_bytes += len(text.data)
            measured.documents += text.ends_document
            progress.advance(source_bytes=len(text.data), documents=int(text.ends_document))
        measured.file_bytes.append(measured.text_bytes - before)
        if measured.text_bytes == before:
            report.add("files without text", file.path)
        listing.update(f"{digest.hexdigest()}  {file.name}\n".encode())
        measured.sha256 = digest.hexdigest() if len(files) == 1 else listing.hexdigest()
    if not measured.text_bytes:
        named = files[0].path if len(files) == 1 else f"{files[0].path} and {len(files) - 1} more"
        raise DataError(f"{named}: empty, there is no text to prepare")
    measured.sample = reservoir.lines if reservoir else []
    return measured


def _offer_lines(reservoir: Reservoir, data: bytes, *, begin: int) -> None:
    for start, line in _lines(data):
        reservoir.offer(Line(begin + start, line))


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    for line in data.splitlines(keepends=True):
        for cut in range(0, len(line), SAMPLE_LINE_BYTES):
            yield start + cut, line[cut : cut + SAMPLE_LINE_BYTES]
        start += len(line)
