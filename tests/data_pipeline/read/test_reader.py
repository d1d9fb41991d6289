"""Any stretch of a split, across chunk and shard borders, is the tokens that are there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.read.split import open_split
from tests.data_pipeline.making import prepared

TEXT = np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8).tobytes()


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader") / "d"
    prepared(folder, TEXT, shard_tokens=997)
    return open_split(folder, "train")


@settings(max_examples=200)
@given(bounds=st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)).map(sorted))
def test_any_stretch_reads_back(split, bounds):
    start, stop = bounds
    assert split.read(start, stop).astype(np.uint8).tobytes() == TEXT[start:stop]


def test_a_split_says_what_it_is(split):
    assert (split.num_tokens, split.source_bytes, split.vocab_size) == (10_000, 10_000, 256)
    assert split.fingerprint == split.index.fingerprint
    assert split.tokenizer().kind == "bytes"


def test_missing_dataset_split_and_shard_are_one_line_each(tmp_path):
    with pytest.raises(DataError, match="no such dataset"):
        open_split(tmp_path / "absent", "train")
    with pytest.raises(DataError, match=r"no dataset\.json"):
        open_split(tmp_path, "train")
    prepared(tmp_path / "d", TEXT)
    with pytest.raises(DataError, match="no split 'valid'; it has: train"):
        open_split(tmp_path / "d", "valid")
    (tmp_path / "d" / "train" / "shard-000000.tar").unlink()
    with pytest.raises(DataError, match=r"shard-000000\.tar"):
        open_split(tmp_path / "d", "train").read(0, 1)


def test_a_truncated_shard_is_refused(tmp_path):
    prepared(tmp_path / "d", TEXT)
    shard = tmp_path / "d" / "train" / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(DataError, match="shard has"):
        open_split(tmp_path / "d", "train").read(0, 1)
