"""Words are counted once, however the text was cut, and do not depend on shards."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.tokenize.words import count_words
from tests.data_pipeline.making import prepared, stream_text

TEXT = b"".join(f"one two\t  caf\u00e9 {number}\n\n".encode() for number in range(3000)) + b"no line end"


def test_words_are_what_lies_between_ascii_whitespace() -> None:
    assert count_words(b"  a\tbc\r\n\x0bd \xc2\xa0 e") == 5  # a no-break space is a word, as in WikiText's own count


def test_the_end_of_a_document_ends_a_word() -> None:
    assert count_words(b"abc") == 1
    assert count_words(b"abc", document_ends=(1, 3)) == 2
    assert count_words(b"ab cd", document_ends=(2, 5)) == 2


@given(text=st.text("ab \t\n\x0b\x0c\r\x1c\x1f\x85\xa0\x00").map(str.encode), cuts=st.sets(st.integers(0, 40)))
def test_words_of_documents_are_those_of_each_alone(text, cuts):
    ends = sorted(cut for cut in cuts if cut <= len(text))
    alone = [text[start:stop].split() for start, stop in pairwise((0, *ends, len(text)))]
    assert count_words(text, document_ends=ends) == sum(map(len, alone))


@pytest.mark.parametrize(("tokenizer", "shard_tokens"), [("bytes", 997), ("bytes", 10**6), ("sentencepiece", 501)])
def test_every_split_has_the_words_of_its_text(tmp_path, tokenizer, shard_tokens):
    index = prepared(
        tmp_path / "d", TEXT, splits="valid=0.1", tokenizer=tokenizer, vocab_size=300, shard_tokens=shard_tokens
    )
    for name, split in index.splits.items():
        assert split.words == len(stream_text(tmp_path / "d", name).split()) == sum(s.words for s in split.shards)
    assert index.totals.words == sum(split.words for split in index.splits.values())


def test_the_words_of_documents_that_share_no_whitespace_are_counted_apart(tmp_path):
    files = []
    for number in range(40):
        files.append(tmp_path / f"{number:02d}.txt")
        files[-1].write_bytes(b"alpha beta" if number % 2 else b"gamma")
    random.Random(0).shuffle(files)
    index = prepared(tmp_path / "d", files, shard_tokens=7)
    assert index.totals.words == 60
