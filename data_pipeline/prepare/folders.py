"""The files below a folder, links followed: each folder and each file once, whatever links lead to it."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from data_pipeline.errors import DataError
from data_pipeline.prepare.report import Report

Identity = tuple[int, int]
"""Device and inode: two paths with the same are one file."""


def files_below(folder: str, *, report: Report) -> list[str]:
    """Paths relative to `folder`, sorted, without hidden ones. DataError when a folder below cannot be read.

    What is no link counts first, so links only ever add files; links to nothing, to what was reached already, and
    what is neither file nor folder is reported.
    """
    walk = _Walk(folder, report)
    walk.into("")
    while walk.links:
        links, walk.links = sorted(walk.links), []
        for link in links:
            walk.follow(link)
    return sorted(walk.files)


@dataclass
class _Walk:
    """How far a folder was seen."""

    folder: str
    report: Report
    files: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)  # not followed yet
    seen: dict[Identity, str] = field(default_factory=dict)

    def into(self, relative: str) -> None:
        """Take everything at and below a folder that is no link; links wait."""
        folders = [relative]
        while folders:
            at = folders.pop()
            if self._is_new(at, os.stat(self._path(at)), "folders"):
                folders += reversed([*self._folders_in(at)])

    def follow(self, link: str) -> None:
        try:
            found = os.stat(self._path(link))
        except OSError:
            self.report.add("links to nothing", self._path(link))
            return
        if stat.S_ISDIR(found.st_mode):
            self.into(link)
        else:
            self._take(link, found)

    def _folders_in(self, relative: str) -> Iterator[str]:
        try:
            entries = sorted(os.scandir(self._path(relative)), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{self._path(relative)}: the folder cannot be read ({error.strerror})") from None
        for entry in entries:
            path = os.path.join(relative, entry.name)
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                self.links.append(path)
            elif entry.is_dir():
                yield path
            else:
                self._take(path, entry.stat())

    def _take(self, path: str, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            self.report.add("neither files nor folders", self._path(path))
        elif self._is_new(path, found, "files"):
            self.files.append(path)

    def _is_new(self, path: str, found: os.stat_result, what: str) -> bool:
        identity = (found.st_dev, found.st_ino)
        before = self.seen.setdefault(identity, path)
        if before != path:
            self.report.add(f"{what} reached twice", f"{self._path(path)}: is {self._path(before)}")
        return before == path

    def _path(self, relative: str) -> str:
        return os.path.join(self.folder, relative) if relative else self.folder
