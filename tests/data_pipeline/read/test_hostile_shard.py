"""A shard whose checksum fits may hold anything: it is read or refused in one line, and its reader comes to an end."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.read.reader import BLOCK, OpenShard
from data_pipeline.shard_index import DatasetIndex, load_index
from tests.data_pipeline.making import prepared

TEXT = b"a line of text\n" * 1500
CHUNK = 4096


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetIndex]:
    folder = tmp_path_factory.mktemp("shard") / "d"
    return folder, prepared(folder, TEXT, shard_tokens=CHUNK * 3)


def reads_or_refuses(path: Path, index: DatasetIndex) -> bool:
    """Whether all of it was read; no other end than that and a DataError of one line."""
    record = index.splits["train"].shards[0]
    try:
        shard = OpenShard(path, record=record, dtype=np.dtype(index.dtype), chunk_tokens=index.chunk_tokens)
        sizes = [len(shard.chunk(number)) for number in range(shard.num_chunks)]
        for number in range(shard.num_chunks):
            shard.document_ends(number)
    except DataError as error:
        assert len(error.problems) == 1 and len(str(error).splitlines()) == 1
        return False
    assert sum(sizes) == record.tokens
    return True


def test_a_whole_shard_is_read(made: tuple[Path, DatasetIndex]) -> None:
    folder, index = made
    assert len(index.splits["train"].shards) > 1
    assert reads_or_refuses(folder / "train" / "shard-000000.tar", index)


@given(place=st.integers(0, 4 * BLOCK), text=st.binary(min_size=1, max_size=16), member=st.integers(0, 5))
def test_any_header_is_read_or_refused(
    place: int, text: bytes, member: int, made: tuple[Path, DatasetIndex], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, index = made
    content = bytearray((folder / "train" / "shard-000000.tar").read_bytes())
    starts = [found.start() for found in re.finditer(rb"ustar", bytes(content))]
    start = starts[member % len(starts)] - 257
    at = min(start + place, len(content) - len(text))
    content[at : at + len(text)] = text
    path = tmp_path_factory.getbasetemp() / "hostile.tar"
    path.write_bytes(bytes(content))
    reads_or_refuses(path, index)


@pytest.mark.parametrize("size", [b"77777777777", b"-0000000001", b"zzzzzzzzzzz", b"00000000000"])
def test_sizes_that_lead_elsewhere_are_refused(size: bytes, made: tuple[Path, DatasetIndex], tmp_path: Path) -> None:
    folder, index = made
    content = bytearray((folder / "train" / "shard-000000.tar").read_bytes())
    content[124:135] = size
    (tmp_path / "x.tar").write_bytes(bytes(content))
    assert not reads_or_refuses(tmp_path / "x.tar", index)


def test_a_split_has_the_tokens_of_its_shards(made: tuple[Path, DatasetIndex], tmp_path: Path) -> None:
    text = (made[0] / "dataset.json").read_text()
    count = made[1].splits["train"].tokens
    (tmp_path / "dataset.json").write_text(text.replace(f'"tokens": {count}', f'"tokens": {count + 1}'))
    with pytest.raises(DataError, match="shards hold"):
        load_index(tmp_path)
