"""What is asked of an open archive of any kind, and which of its members are files to be read."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple, Self

from data_pipeline.prepare.compressed import Readable
from data_pipeline.prepare.report import Report, printable

NO_FILES = "archive members that are no files"  # in the report
CHANGED = "the archive changed while it was being read"


class Entry(NamedTuple):
    """A visible file in an archive: the `number`th entry, hidden ones, folders and links counted."""

    number: int
    name: str
    stored_bytes: int


class ArchiveReader(ABC):
    """An open archive."""

    @abstractmethod
    def entries(self, *, shown: str, report: Report) -> Iterator[Entry]:
        """Its visible files in its own order; links and the like go to the report, under the name `shown`."""

    @abstractmethod
    def check_end(self) -> None:
        """After all entries: ValueError when the archive holds more than they are."""

    @abstractmethod
    def can_open(self, number: int) -> bool:
        """Whether that entry can still be reached."""

    @abstractmethod
    def open(self, number: int, *, name: str) -> tuple[Readable, int]:
        """The bytes of an entry, and how many there must be. ValueError when it is another one now, or is not read."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def plain_name(name: str) -> str:
    """Without `./`, which many tars have before every name."""
    return printable(str(PurePosixPath(name)))


def is_hidden(name: str) -> bool:
    """Whether a path has a part that begins with a dot, or lies in the folder macOS adds to archives."""
    parts = [part for part in PurePosixPath(name).parts if part != ".."]
    return any(part.startswith(".") for part in parts) or parts[:1] == ["__MACOSX"]
