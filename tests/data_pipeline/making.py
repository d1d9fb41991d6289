"""Small prepared datasets for the tests of this room."""

import os
from pathlib import Path
from typing import Any

from data_pipeline.prepare.dataset import prepare
from data_pipeline.prepare.documents import DocumentOptions
from data_pipeline.prepare.request import Request
from data_pipeline.prepare.sources import find_files
from data_pipeline.prepare.splits import parse_splits
from data_pipeline.shard_index import DatasetIndex

FUZZ = int(os.environ.get("HIERLM_FUZZ", "1"))
"""How many times as many damaged files are tried as in `make test`; HIERLM_FUZZ=200 takes minutes a test."""

EVERY_PLANE = "".join(chr(plane * 0x10000 + offset) for plane in range(17) for offset in (0x41, 0x3042, 0xFFFD - 1))


class Silent:
    """For callers that want no progress."""

    def begin(self, stage: str, *, total_bytes: int | None = None) -> None:
        pass

    def advance(self, *, source_bytes: int = 0, tokens: int = 0, documents: int = 0) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def close(self) -> None:
        pass


def prepared(folder: Path, content: bytes | list[Path], *, splits: str = "none", **options: Any) -> DatasetIndex:
    """Prepare `content` (bytes of one file, or files) into `folder`."""
    paths = content
    if isinstance(paths, bytes):
        folder.parent.mkdir(parents=True, exist_ok=True)
        source = folder.parent / f"{folder.name}.txt"
        source.write_bytes(paths)
        paths = [source]
    if isinstance(options.get("documents"), str):
        options["documents"] = DocumentOptions(mode=options["documents"])
    given = tuple(str(path) for path in paths)
    request = Request(
        files=tuple(find_files(given)), given=given, output=folder, splits=parse_splits(splits), **options
    )
    made = prepare(request, progress=Silent()).dataset
    assert (made is None) == (request.plan or request.part is not None)
    return made


def stream_text(folder: Path, split: str) -> bytes:
    """The text of a split, decoded from its tokens."""
    from data_pipeline.read.split import open_split

    opened = open_split(folder, split)
    return opened.tokenizer().decode(opened.read(0, opened.num_tokens).tolist())


def folder_content(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
