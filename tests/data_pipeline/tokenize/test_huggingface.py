"""An existing tokenizer.json is used as it is, keeps every text, or is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.shard_index import load_index
from data_pipeline.tokenize.huggingface import HuggingFaceTokenizer, byte_level_alphabet
from tests.data_pipeline.making import EVERY_PLANE, prepared, stream_text

tokenizers = pytest.importorskip("tokenizers")

TEXT = ["def add(first, second):\n", "    return first + second\n", "naïve  café\r\n"] * 50


def byte_level() -> "tokenizers.Tokenizer":
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def made():
    return HuggingFaceTokenizer(byte_level().to_str().encode(), where="t")


def test_the_alphabet_is_the_librarys_own():
    from tokenizers import pre_tokenizers

    assert set(byte_level_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_level_alphabet().values()) == list(range(256))


@given(text=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda s: s.encode("utf-8", "surrogatepass"))))
def test_any_bytes_come_back(made, text):
    tokens = made.encode(text)
    assert made.decode(tokens.tolist()) == text and made.num_bytes(tokens) == len(text)


def test_tokens_are_the_librarys_own(made):
    text = "def add(x):<|endoftext|>\n  return x"
    assert made.encode(text.encode()).tolist() == byte_level().encode(text, add_special_tokens=False).ids
    assert made.decode(made.encode(text.encode()).tolist()).decode() == text


def test_a_dataset_carries_the_file_and_its_fingerprint(tmp_path, made):
    (tmp_path / "tokenizer.json").write_bytes(made.model)
    text = (EVERY_PLANE + "".join(TEXT)).encode() * 30
    prepared(
        tmp_path / "d",
        text,
        tokenizer="huggingface",
        tokenizer_model=tmp_path / "tokenizer.json",
        shard_tokens=5000,
        workers=2,
    )
    assert stream_text(tmp_path / "d", "train") == text
    record = load_index(tmp_path / "d").tokenizer
    assert (record.kind, record.file, record.fingerprint) == ("huggingface", "tokenizer.json", made.fingerprint)


def test_a_tokenizer_that_loses_text_is_refused():
    from tokenizers import normalizers

    lowercase = byte_level()
    lowercase.normalizer = normalizers.Lowercase()
    with pytest.raises(DataError, match="changes text"):
        HuggingFaceTokenizer(lowercase.to_str().encode(), where="t")
    few = json.loads(byte_level().to_str())
    few["pre_tokenizer"] = few["decoder"] = None
    with pytest.raises(DataError, match="lacks single bytes"):
        HuggingFaceTokenizer(json.dumps(few).encode(), where="t")
    with pytest.raises(DataError, match=r"not a tokenizer\.json"):
        HuggingFaceTokenizer(b"{}", where="t")
