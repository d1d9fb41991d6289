"""A text that does not come back from its tokens is found wherever it stands, and named; or counted as what is left."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.check.inspection import inspect
from data_pipeline.check.verify import verify
from data_pipeline.errors import DataError
from data_pipeline.prepare.lossless import encoded_text
from data_pipeline.shard_index import load_index
from data_pipeline.tokenize.huggingface import HuggingFaceTokenizer
from data_pipeline.tokenize.tokenizer import ByteTokenizer
from data_pipeline.tokenize.words import count_words
from launcher.cli import run
from tests.data_pipeline.making import Silent, prepared, stream_text

tokenizers = pytest.importorskip("tokenizers")

PLAIN = [f"line {number} of a text that every tokenizer keeps\n" for number in range(3000)]
SPOILED = "before <|user|>  after, a \u2019 and a ~ too\n"


def byte_level():
    from tokenizers import decoders, models, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        PLAIN[:200], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    return made


def strips():
    made = byte_level()
    made.add_special_tokens([tokenizers.AddedToken("<|user|>", lstrip=True, rstrip=True)])
    return made


def replaces():
    made = byte_level()
    made.normalizer = tokenizers.normalizers.Replace("\u2019", "'")
    return made


def removes():
    from tokenizers import pre_tokenizers

    made = byte_level()
    split = pre_tokenizers.Split("~", behavior="removed")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return made


KINDS = {"strips": strips, "replaces": replaces, "removes": removes}


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "tokenizer.json"
    path.write_text(KINDS[request.param]().to_str())
    return path


def files(folder, texts):
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(text)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_first_text_that_does_not_come_back_is_named(tmp_path, model, workers):
    plain = "".join(PLAIN)
    paths = files(tmp_path / "in", ["short\n", plain[:50_000], plain + SPOILED + plain, SPOILED])
    with pytest.raises(DataError) as error:
        prepared(tmp_path / "d", paths, tokenizer="huggingface", tokenizer_model=model, workers=workers)
    (line,) = error.value.problems
    assert "\n" not in line and line.startswith(f"{paths[2]}: byte ") and "--allow-lossy" in line
    place = int(line.split(": byte ")[1].split()[0])
    assert len(plain) <= place + 20 and place < len(plain) + len(SPOILED.encode())
    shown, came_back = line.split("changes text (")[1].split("); choose")[0].split(" comes back as ")
    assert shown != came_back and (plain + SPOILED).encode()[place:].decode().startswith(eval(shown.strip("."))[:20])
    assert not (tmp_path / "d" / "dataset.json").exists()


def test_text_it_keeps_is_prepared_with_the_same_tokenizer(tmp_path, model):
    index = prepared(tmp_path / "d", "".join(PLAIN).encode(), tokenizer="huggingface", tokenizer_model=model, workers=1)
    assert not index.lossy and stream_text(tmp_path / "d", "train") == "".join(PLAIN).encode()


def test_losses_that_are_allowed_are_counted_and_told(tmp_path, model):
    text = "".join(line + SPOILED * (number % 50 == 0) for number, line in enumerate(PLAIN))
    paths = files(tmp_path / "in", [text, SPOILED, "~"])
    index = prepared(
        tmp_path / "d", paths, splits="valid=0.2", tokenizer="huggingface", tokenizer_model=model, workers=1,
        allow_lossy=True, shard_tokens=5000,
    )  # fmt: skip
    assert index.lossy and load_index(tmp_path / "d").lossy
    for name, split in index.splits.items():
        held = stream_text(tmp_path / "d", name)
        assert split.source_bytes == len(held) == sum(shard.source_bytes for shard in split.shards)
        assert abs(split.words - count_words(held)) <= len(paths)  # a document's end ends a word as well
    assert index.totals.source_bytes < sum(read["text_bytes"] for read in index.made["read"])
    assert verify(tmp_path / "d", progress=Silent()) == []
    assert inspect(tmp_path / "d")["lossy"]


def test_a_lossy_dataset_is_not_taken_for_the_lossless_one_asked_for(tmp_path, model):
    options = {"tokenizer": "huggingface", "tokenizer_model": model, "workers": 1}
    prepared(tmp_path / "d", SPOILED.encode(), allow_lossy=True, **options)
    with pytest.raises(DataError, match="different: allow_lossy"):
        prepared(tmp_path / "d", SPOILED.encode(), **options)


def test_the_command_refuses_and_with_leave_tells_wherever_it_tells_bytes(tmp_path, model, capfd):
    source = tmp_path / "text.txt"
    source.write_text("".join(PLAIN[:500]) + SPOILED + PLAIN[0])
    given_words = ["prepare", "--input", str(source), "--output", str(tmp_path / "d"), "--splits", "none"]
    command = ["data", *given_words, "--tokenizer", "huggingface", "--tokenizer-model", str(model), "--workers", "1"]
    assert run(command) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("hierlm")]
    assert len(said) == 1 and f"{source}: byte" in said[0]
    (tmp_path / "d/prepare.journal").unlink()
    for left in (tmp_path / "d").rglob("*.*"):
        left.unlink()
    assert run([*command, "--allow-lossy"]) == 0
    told = capfd.readouterr()
    assert "comes back as" in told.err and "are of what its tokens decode to" in told.out
    assert "that hold" in told.out
    assert json.loads((tmp_path / "d/dataset.json").read_text())["lossy"] is True


def test_bytes_need_no_leave(tmp_path):
    with pytest.raises(DataError, match="--allow-lossy: bytes are never lost"):
        prepared(tmp_path / "d", b"text", allow_lossy=True)


@pytest.mark.parametrize(("mark", "held"), [("end_of_word_suffix", b"ab "), ("continuing_subword_prefix", b"ab")])
def test_marks_of_the_vocabulary_are_no_bytes_of_the_text(mark, held):
    """As in CLIP's vocabulary, where `</w>` stands for the end of a word."""
    described = json.loads(byte_level().to_str())
    described["model"][mark] = "</w>"
    entry = "ab</w>" if mark == "end_of_word_suffix" else "</w>ab"
    described["model"]["vocab"][entry] = token = len(described["model"]["vocab"])
    described["model"]["merges"] = []
    model = HuggingFaceTokenizer(json.dumps(described).encode(), where="t", allow_lossy=True)
    assert model.decode([token]) == held and model.num_bytes(np.array([token])) == len(held)


@settings(max_examples=60, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(["<|user|>", " ", "a", "\u2019", "~", "\n", "\u2581", "é"]), min_size=1, max_size=12
    ).map("".join),
    cuts=st.sets(st.integers(1, 11), max_size=3),
)
def test_nothing_that_changes_goes_unseen_and_nothing_else_is_blamed(model, text, cuts):
    data = text.encode()
    tokenizer = HuggingFaceTokenizer(model.read_bytes(), where="t", allow_lossy=True)
    ends = [end for end in sorted(cuts) if end < len(data)]
    parts = [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]
    back = [tokenizer.decode(tokenizer.encode(part).tolist()) for part in parts]
    encoding = encoded_text(tokenizer, data, ends)
    assert (encoding.change is not None) == (back != parts)
    assert tokenizer.decode(encoding.tokens) == b"".join(back)
    if encoding.change is not None:
        assert encoding.change.held_bytes == len(b"".join(back)) == tokenizer.num_bytes(encoding.tokens)
    assert encoded_text(ByteTokenizer(), data, ends).change is None
