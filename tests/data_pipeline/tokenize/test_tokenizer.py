"""Whatever goes in comes out: for bytes, and for sentencepiece with byte fallback."""

import io

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.prepare.tokenizer_training import train_sentencepiece
from data_pipeline.tokenize.sentencepiece import SentencePieceTokenizer
from data_pipeline.tokenize.tokenizer import ByteTokenizer, dtype_for, fingerprint_of
from tests.data_pipeline.making import EVERY_PLANE

LINES = [b"def add(first, second):\n", b"    return first + second\n", b"\n", "naïve  café\r\n".encode()] * 50


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def trained(request):
    return SentencePieceTokenizer(train_sentencepiece(LINES, vocab_size=320, model_type=request.param), where="m")


AWKWARD = [
    b"", b"\0", b"  two  spaces  ", b"\t\n\r\n\n", b"\xff\xfe\x80", b"a\xe2\x96b", b"\xed\xa0\x80 lone surrogate",
    "\u2581 \u2581\u2581".encode(), EVERY_PLANE.encode(), b"<unk><s></s><0x41>", "\ufeff\u2028\x85".encode(),
    b"x" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", AWKWARD, ids=range(len(AWKWARD)))
def test_awkward_text_comes_back(trained, text):
    for tokenizer in (trained, ByteTokenizer()):
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens.tolist()) == text
        assert tokenizer.num_bytes(tokens) == len(text)


@settings(max_examples=100)
@given(text=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda s: s.encode("utf-8", "surrogatepass"))))
def test_any_bytes_come_back(trained, text):
    assert trained.decode(trained.encode(text).tolist()) == text


def test_pieces_are_learned_and_shorter_than_bytes(trained):
    text = b"def add(first, second):\n    return first + second\n"
    assert len(trained.encode(text)) < len(text) / 1.5


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_training_twice_gives_the_same_bytes(model_type):
    models = [train_sentencepiece(LINES, vocab_size=300, model_type=model_type) for _ in range(2)]
    assert models[0] == models[1]


def test_token_types_are_as_narrow_as_the_vocabulary_allows(trained):
    assert [dtype_for(size) for size in (256, 257, 65536, 65537)] == ["uint8", "uint16", "uint16", "uint32"]
    assert trained.encode(b"abc").dtype == np.uint16


def test_fingerprints_tell_kinds_and_models_apart(trained):
    other = train_sentencepiece(LINES, vocab_size=300, model_type="bpe")
    assert len({ByteTokenizer().fingerprint, trained.fingerprint, fingerprint_of("sentencepiece", other)}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"byte_fallback": False}, "byte fallback"),
        ({"add_dummy_prefix": True}, "changes text"),
        ({"normalization_rule_name": "nmt_nfkc"}, "changes text"),
        ({"remove_extra_whitespaces": True}, "changes text"),
    ],
)
def test_a_model_that_loses_text_is_refused(options, message):
    model = io.BytesIO()
    lossless = {
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line.decode() for line in LINES),
        model_writer=model,
        vocab_size=300,
        hard_vocab_limit=False,
        minloglevel=2,
        **(lossless | options),
    )
    with pytest.raises(DataError, match=message):
        SentencePieceTokenizer(model.getvalue(), where="m")


def test_what_is_no_model_is_refused_in_one_line():
    with pytest.raises(DataError) as error:
        SentencePieceTokenizer(b"not a model", where="some.model")
    assert "some.model: not a sentencepiece model" in str(error.value) and "\n" not in str(error.value)


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(DataError, match="byte fallback needs at least"):
        train_sentencepiece(LINES, vocab_size=256, model_type="bpe")
