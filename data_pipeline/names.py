"""What an index that somebody else wrote may say: checksums, names of files below its own folder, numbers of sane size.

A reader makes paths and addresses of them, and room on its disk.
"""

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

MAX_NAME_BYTES = 1024
MAX_COUNT = 1 << 60
"""Of bytes, tokens, documents: sums of them still fit 64 bits."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


def below_its_folder(name: str) -> str:
    """A relative name that stays below the folder it is relative to, on any file system; ValueError."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{name!r} is not a relative name without `..`")
    if not name.isprintable() or "\\" in name or len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise ValueError(
            f"{name[:80]!r} holds what no name of a file here holds, or is longer than {MAX_NAME_BYTES} bytes"
        )
    return name


RelativeName = Annotated[str, AfterValidator(below_its_folder)]
