"""Another name for a file, on file systems that may ask for it twice."""

import os
from pathlib import Path


def rename(source: Path, target: Path) -> None:
    """Give a file or a directory another name, in the place of a file or an empty directory that has it.

    A network file system may send a request twice when the first answer is lost, and then says of the second that there
    is no such file. What has the new name and is what had the old one has been renamed.
    """
    before = os.stat(source, follow_symlinks=False)
    try:
        os.rename(source, target)
    except FileNotFoundError:
        if not _is(target, before):
            raise


def _is(path: Path, known: os.stat_result) -> bool:
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (known.st_dev, known.st_ino)
