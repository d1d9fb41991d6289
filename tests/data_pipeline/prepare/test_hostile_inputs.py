"""Whatever a file holds and is called, it is read or refused in a line: no other exception comes of it."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
import zstandard
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.image_shape import ImageShape
from data_pipeline.prepare.documents import DOCUMENT_MODES, DocumentOptions, documents_of
from data_pipeline.prepare.journal import Journal
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.sources import find_files
from data_pipeline.shard_index import load_index

TEXT = b"".join(json.dumps({"text": f"line {number} \u00e4" * 9}).encode() + b"\n" for number in range(40))


def zipped(name: str, content: bytes, method: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(name, content)
        archive.writestr("b.txt", content)
    return stream.getvalue()


def tarred(name: str, content: bytes, kind: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for member in (name, "b.txt"):
            header = tarfile.TarInfo(
                member * (30 if kind != tarfile.USTAR_FORMAT else 1)
            )  # a name in blocks of its own
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return stream.getvalue()


def array_archive() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, data=np.zeros((3, 4, 5, 3), np.uint8))
    return stream.getvalue()


def table() -> bytes:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    stream = io.BytesIO()
    pyarrow.parquet.write_table(arrow.table({"text": ["one", "two", None] * 9, "id": [*range(27)]}), stream)
    return stream.getvalue()


WHOLE = [
    TEXT,
    b"id,text\n" + TEXT,
    gzip.compress(TEXT),
    bz2.compress(TEXT),
    lzma.compress(TEXT),
    lzma.compress(TEXT, format=lzma.FORMAT_ALONE),
    zstandard.ZstdCompressor(write_checksum=True).compress(TEXT),
    *(zipped("a.jsonl", TEXT, method) for method in (0, 8, 12, 14)),
    *(tarred("a.jsonl", TEXT, kind) for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)),
    gzip.compress(tarred("a.jsonl", TEXT, tarfile.PAX_FORMAT)),
    array_archive(),
    table(),
]
NAMES = ["a", "a.json", "a.jsonl.gz", "a.csv", "a.parquet", "a.npz", "a.zip", "a.bin"]
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 13), st.binary(min_size=1, max_size=12)), max_size=6)


@given(
    number=st.integers(0, len(WHOLE) - 1),
    changes=CHANGES,
    cut=st.none() | st.integers(0, 1 << 13),
    name=st.sampled_from(NAMES),
    mode=st.sampled_from(DOCUMENT_MODES),
    is_image=st.booleans(),
)
@example(number=0, changes=[(0, b'{"text":' + b"[" * 200_000)], cut=None, name="a.json", mode="auto", is_image=False)
@settings(max_examples=150, deadline=None, phases=(Phase.explicit, Phase.generate))
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path_factory, number, changes, cut, name, mode, is_image):
    content = bytearray(WHOLE[number])
    for at, change in changes:
        start = at % len(content)
        content[start : start + len(change)] = change
    path = tmp_path_factory.mktemp("h") / name
    path.write_bytes(content if cut is None else content[: cut % len(content)])
    options = DocumentOptions(mode=mode, separator="|", image_shape=ImageShape(4, 5) if is_image else None)
    try:
        found = find_files([str(path)])
        for file in found:
            for _ in documents_of(file, options=options, report=Report()):
                pass
    except DataError as error:
        assert all(problem.strip() and "\n" not in problem for problem in error.problems)


@pytest.mark.parametrize("read", [load_index, lambda folder: Journal(folder).header()])
def test_an_index_or_a_journal_that_is_nested_too_deeply_is_damaged(tmp_path, read):
    for name in ("dataset.json", "prepare.journal"):
        (tmp_path / name).write_bytes(b"[" * 200_000 + b"\n")
    with pytest.raises(DataError, match=r"cannot be read|damaged"):
        read(tmp_path)
