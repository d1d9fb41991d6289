"""sentencepiece learns from text of any script: with spaces, without, or with one in a thousand characters."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.prepare.tokenizer_training import train_sentencepiece
from data_pipeline.tokenize.sentencepiece import SentencePieceTokenizer
from tests.data_pipeline.making import prepared, stream_text

COMMON = [chr(0x4E00 + number) for number in range(300)]


def without_spaces(script, size):
    """Text as DNA and Chinese are: letters drawn unevenly, so that pairs repeat; a space only in the last line."""
    draw = random.Random(script)
    letters = {"dna": "ACGT", "chinese": COMMON, "digits": "0123456789"}[script]
    weights = [1 / (rank + 1) for rank in range(len(letters))]
    lines = ["".join(draw.choices(letters, weights, k=70)) for _ in range(size)]
    return "\n".join([*lines, "a b  c\n"]).encode()


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("script", ["dna", "chinese", "digits"])
def test_text_without_spaces_is_learned_and_comes_back(tmp_path, script, model_type):
    text = without_spaces(script, 600)
    options = {"tokenizer": "sentencepiece", "vocab_size": 800, "model_type": model_type, "workers": 1}
    index = prepared(tmp_path / "d", text, splits="valid=0.1", **options)
    assert b"".join(stream_text(tmp_path / "d", split) for split in index.splits) == text
    characters = len(text.decode())
    assert index.totals.tokens < characters / 1.1 and index.totals.source_bytes == len(text)


@settings(max_examples=15, deadline=None)
@given(
    letters=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    order=st.lists(st.integers(0, 19), min_size=1, max_size=100),
    rare=st.text(max_size=5),
    model_type=st.sampled_from(["bpe", "unigram"]),
    vocab_size=st.sampled_from([260, 300, 1000]),
)
def test_whatever_it_was_trained_on_a_model_keeps_every_text(letters, order, rare, model_type, vocab_size):
    line = "".join(letters[place % len(letters)] for place in order).encode()
    try:
        model = train_sentencepiece([line * 20, b"\n"], vocab_size=vocab_size, model_type=model_type)
    except DataError as error:
        usable = set(line.decode()) - set("\0\r\n\u2581")
        assert "\n" not in str(error)
        assert not usable if "nothing to learn" in str(error) else model_type == "unigram" and len(usable) < 3
        return
    tokenizer = SentencePieceTokenizer(model, where="m")
    for text in (line, f" {rare}  a\tb {letters}\n".encode()):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_space_that_was_never_seen_is_one_token():
    tokenizer = SentencePieceTokenizer(
        train_sentencepiece([b"ACGT" * 500] * 5, vocab_size=300, model_type="bpe"), where="m"
    )
    assert len(tokenizer.encode(b" ")) == 1
    assert tokenizer.encode(b"ACGT ACGT").tolist() == [
        *tokenizer.encode(b"ACGT").tolist(), *tokenizer.encode(b" ").tolist(), *tokenizer.encode(b"ACGT").tolist()
    ]  # fmt: skip


def test_text_of_nothing_to_learn_from_is_said_to_be():
    with pytest.raises(DataError, match="--tokenizer bytes"):
        train_sentencepiece([b"\n", b"\xff\xfe"], vocab_size=300, model_type="bpe")
