"""Any flipped byte anywhere in a dataset is found and the shard is named."""

import random
import re

import pytest

from data_pipeline.check.verify import verify
from data_pipeline.errors import DataError
from tests.data_pipeline.making import Silent, prepared

TEXT = b"some text to keep safe\n" * 2000


@pytest.fixture
def folder(tmp_path):
    prepared(tmp_path / "d", TEXT, splits="valid=0.1", shard_tokens=15_000, tokenizer="sentencepiece", vocab_size=270)
    assert verify(tmp_path / "d", progress=Silent()) == []
    return tmp_path / "d"


def test_a_flipped_byte_is_found_in_any_shard(folder):
    shards = sorted(folder.glob("*/*.tar"))
    assert len(shards) >= 2
    for shard in shards:
        whole = shard.read_bytes()
        for _ in range(5):
            damaged = bytearray(whole)
            damaged[random.Random(str(shard)).randrange(len(whole))] ^= 1
            shard.write_bytes(bytes(damaged))
            problems = verify(folder, progress=Silent())
            assert len(problems) == 1 and str(shard) in problems[0]
        shard.write_bytes(whole)


def test_missing_and_truncated_shards_are_named_together(folder):
    first, *_, last = sorted(folder.glob("*/*.tar"))
    first.unlink()
    last.write_bytes(last.read_bytes()[:-1])
    problems = verify(folder, progress=Silent())
    assert [str(first) in problems[0], str(last) in problems[1]] == [True, True]


def test_another_tokenizer_file_is_found(folder):
    model = folder / "tokenizer.model"
    model.write_bytes(model.read_bytes() + b"\0")
    assert "not the tokenizer" in verify(folder, progress=Silent())[0]


def test_an_edited_index_is_found(folder):
    index = folder / "dataset.json"
    text = index.read_text()
    index.write_text(re.sub(r'"fingerprint": "(.)', lambda m: f'"fingerprint": "{int(m[1] == "0")}', text, count=1))
    assert any("dataset.json" in problem for problem in verify(folder, progress=Silent()))
    index.write_text(text.replace('"fingerprint": "', '"fingerprint": "0', 1))
    with pytest.raises(DataError, match=r"dataset\.json: fingerprint"):
        verify(folder, progress=Silent())
