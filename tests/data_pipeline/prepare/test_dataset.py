"""From text to a dataset: exact splits, lossless, byte-identical for any number of workers and after any kill."""

import gzip
import hashlib
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import webdataset

from data_pipeline.check.verify import verify
from data_pipeline.errors import DataError
from data_pipeline.prepare.sources import SourceFile, text_blocks
from data_pipeline.read.split import open_split
from data_pipeline.shard_index import load_index
from tests.conftest import corpus
from tests.data_pipeline.making import EVERY_PLANE, Silent, folder_content, prepared, stream_text

TEXT = b"".join(f"line {number} of a small text, caf\u00e9 \U0001f600\n".encode() for number in range(4000))
AWKWARD = (EVERY_PLANE * 100 + "\0\u2581 \u2581\r\n").encode() + b"\xff\xed\xa0\x80\x80" * 50 + TEXT


@pytest.mark.parametrize("tokenizer", ["bytes", "sentencepiece"])
def test_the_text_comes_back_from_every_split(tmp_path, tokenizer):
    index = prepared(
        tmp_path / "d", AWKWARD, splits="valid=0.1,test=0.2", tokenizer=tokenizer, vocab_size=300, shard_tokens=10_000
    )
    texts = [stream_text(tmp_path / "d", split) for split in index.splits]
    assert b"".join(texts) == AWKWARD
    assert [split.source_bytes for split in index.splits.values()] == [len(text) for text in texts]
    shards = [shard for split in index.splits.values() for shard in split.shards]
    assert sum(shard.source_bytes for shard in shards) == len(AWKWARD) == index.totals.source_bytes


def test_byte_splits_are_exact_tails_in_order(tmp_path):
    index = prepared(tmp_path / "d", TEXT[:10_007], splits="test=0.05,valid=0.05")
    assert [(name, split.tokens) for name, split in index.splits.items()] == [
        ("train", 9007), ("valid", 500), ("test", 500),
    ]  # fmt: skip
    assert stream_text(tmp_path / "d", "valid") == TEXT[9007:9507]


def test_enwik8_prefix_splits_as_published(tmp_path):
    source = corpus("enwik8-prefix/enwik8_first4000000.gz")
    index = prepared(tmp_path / "d", [source], splits="valid=0.05,test=0.05")
    assert [split.tokens for split in index.splits.values()] == [3_600_000, 200_000, 200_000]
    assert stream_text(tmp_path / "d", "test") == gzip.decompress(source.read_bytes())[3_800_000:]


def test_splits_may_be_files_of_their_own(tmp_path):
    valid = tmp_path / "valid.txt"
    valid.write_bytes(b"for validation")
    index = prepared(tmp_path / "d", TEXT, splits=f"valid={valid}")
    assert index.splits["train"].tokens == len(TEXT)
    assert stream_text(tmp_path / "d", "valid") == b"for validation"


def test_shards_hold_exactly_the_tokens_asked_for(tmp_path):
    index = prepared(tmp_path / "d", TEXT, shard_tokens=70_000)
    sizes = [shard.tokens for shard in index.splits["train"].shards]
    assert sizes[:-1] == [70_000] * (len(TEXT) // 70_000) and sum(sizes) == len(TEXT)


def test_plain_webdataset_reads_the_shards(tmp_path):
    index = prepared(tmp_path / "d", TEXT, shard_tokens=100_000)
    urls = [str(tmp_path / "d" / shard.name) for shard in index.splits["train"].shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert np.concatenate([sample["tokens.npy"] for sample in samples]).astype(np.uint8).tobytes() == TEXT
    assert [sample["documents.npy"].tolist() for sample in samples][-1] == [len(samples[-1]["tokens.npy"])]
    assert len({sample["__key__"] for sample in samples}) == len(samples)


@pytest.mark.parametrize("tokenizer", ["bytes", "sentencepiece"])
def test_output_does_not_depend_on_workers(tmp_path, tokenizer):
    folders = [tmp_path / "one" / "d", tmp_path / "three" / "d"]
    source = tmp_path / "text"
    source.write_bytes(AWKWARD * 4)
    for folder, workers in zip(folders, (1, 3), strict=True):
        prepared(
            folder, [source], splits="valid=0.1", tokenizer=tokenizer, vocab_size=300, shard_tokens=33_333,
            workers=workers, documents="blank-line",
        )  # fmt: skip
    assert folder_content(folders[0]) == folder_content(folders[1])


def test_document_ends_travel_beside_the_tokens(tmp_path):
    files = []
    for number, size in enumerate((5000, 70_000, 1)):
        files.append(tmp_path / f"{number}.txt")
        files[-1].write_bytes(TEXT[:size])
    index = prepared(tmp_path / "d", files, shard_tokens=30_000)
    split = open_split(tmp_path / "d", "train")
    starts = split.document_starts(0, split.num_tokens)
    assert np.flatnonzero(starts).tolist() == [0, 5000, 75_000]
    assert np.flatnonzero(split.document_starts(4999, 5002)).tolist() == [1]
    assert index.totals.documents == 3


def test_the_same_request_again_is_found_done_and_another_one_refused(tmp_path):
    first = prepared(tmp_path / "d", TEXT)
    assert prepared(tmp_path / "d", TEXT) == first
    with pytest.raises(DataError, match=r"made otherwise .*shard_tokens"):
        prepared(tmp_path / "d", TEXT, shard_tokens=1000)
    with pytest.raises(DataError, match=r"made otherwise .*inputs"):
        prepared(tmp_path / "d", TEXT[:-1] + b"X")


def test_inputs_that_have_moved_are_the_same_and_others_of_their_size_are_not(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, text in ((here, TEXT), (there, TEXT)):
        folder.mkdir()
        (folder / "train.txt").write_bytes(text)
        (folder / "valid.txt").write_bytes(b"for validation")
    first = prepared(tmp_path / "d", [here / "train.txt"], splits=f"valid={here / 'valid.txt'}")
    assert prepared(tmp_path / "d", [there / "train.txt"], splits=f"valid={there / 'valid.txt'}") == first
    (there / "valid.txt").write_bytes(b"for VALIDATION")
    with pytest.raises(DataError, match=r"made otherwise .*inputs"):
        prepared(tmp_path / "d", [there / "train.txt"], splits=f"valid={there / 'valid.txt'}")


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.tex").write_text("precious")
    for resume in (False, True):
        with pytest.raises(DataError, match="not empty"):
            prepared(tmp_path / "d", TEXT, resume=resume)
    assert (tmp_path / "d" / "thesis.tex").read_text() == "precious"


def test_empty_text_and_too_little_text_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"d\.txt: empty"):
        prepared(tmp_path / "d", b"")
    with pytest.raises(DataError, match="split valid would be empty"):
        prepared(tmp_path / "e", b"abc", splits="valid=0.05")


@pytest.mark.parametrize("splits", ["valid", "valid=0", "valid=1.5", "train=0.1", "a=0.6,b=0.6", "valid=0.1,valid=0.2"])
def test_wrong_splits_are_refused(tmp_path, splits):
    with pytest.raises(DataError, match="--splits"):
        prepared(tmp_path / "d", TEXT, splits=splits)


SLOWED = """
import sys, time
from data_pipeline.prepare import shard_writer, journal
from tests.conftest import corpus
from tests.data_pipeline.making import prepared
from pathlib import Path
for owner, name in ((shard_writer.ShardWriter, "finish"), (shard_writer.ShardWriter, "_flush_chunk"),
                    (journal, "_append"), (shard_writer, "write_atomically")):
    def slowed(*arguments, original=getattr(owner, name), **options):
        time.sleep(0.01)
        result = original(*arguments, **options)
        time.sleep(0.01)
        return result
    setattr(owner, name, slowed)
from data_pipeline.prepare import dataset
dataset.write_atomically = shard_writer.write_atomically
if __name__ == "__main__":
    prepared(Path(sys.argv[1]), [Path(sys.argv[2])], splits="valid=0.1,test=0.1", tokenizer=sys.argv[3],
             vocab_size=300, shard_tokens=int(sys.argv[4]), workers=int(sys.argv[5]), resume=True)
"""


def prepare_in_process(tmp_path, folder, *, tokenizer, workers):
    script = tmp_path / "slowed_prepare.py"
    script.write_text(SLOWED)
    shard_tokens = 20_000 if tokenizer == "bytes" else 8_000
    arguments = [folder, tmp_path / "text", tokenizer, shard_tokens, workers]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, str(script), *map(str, arguments)], env=environment)


def kill_and_resume(tmp_path, *, tokenizer, workers, kills, seed):
    (tmp_path / "text").write_bytes(AWKWARD)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    began = time.monotonic()
    assert prepare_in_process(tmp_path, whole, tokenizer=tokenizer, workers=1).wait() == 0
    duration = time.monotonic() - began
    moments = random.Random(seed)
    for _ in range(kills):
        process = prepare_in_process(tmp_path, broken, tokenizer=tokenizer, workers=workers)
        time.sleep(moments.uniform(0.1, duration))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert prepare_in_process(tmp_path, broken, tokenizer=tokenizer, workers=workers).wait() == 0
    assert folder_content(broken) == folder_content(whole)
    assert verify(broken, progress=Silent()) == []


@pytest.mark.parametrize(
    ("tokenizer", "workers"), [("bytes", 1), pytest.param("sentencepiece", 2, marks=pytest.mark.slow)]
)
def test_kill_and_resume_gives_the_same_bytes(tmp_path, tokenizer, workers):
    kill_and_resume(tmp_path, tokenizer=tokenizer, workers=workers, kills=2, seed=1)


@pytest.mark.matrix
def test_twenty_kills_give_the_same_bytes(tmp_path):
    kill_and_resume(tmp_path, tokenizer="bytes", workers=1, kills=20, seed=2)


def test_resume_refuses_other_options_and_changed_input(tmp_path, monkeypatch):
    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("data_pipeline.prepare.dataset.build_index", dies)
        with pytest.raises(KeyboardInterrupt):
            prepared(tmp_path / "d", TEXT, shard_tokens=50_000)
    with pytest.raises(DataError, match="--resume"):
        prepared(tmp_path / "d", TEXT, shard_tokens=50_000)
    with pytest.raises(DataError, match="unfinished"):
        load_index(tmp_path / "d")
    with pytest.raises(DataError, match="different: shard_tokens"):
        prepared(tmp_path / "d", TEXT, shard_tokens=60_000, resume=True)
    with pytest.raises(DataError, match="inputs"):
        prepared(tmp_path / "d", TEXT[::-1], shard_tokens=50_000, resume=True)


@pytest.mark.corpora
@pytest.mark.parametrize("tokenizer", ["bytes", "sentencepiece"])
def test_real_text_comes_back(tmp_path, tokenizer):
    source = corpus("wikitext-2/valid.txt.gz")
    prepared(tmp_path / "d", [source], tokenizer=tokenizer, vocab_size=1000)
    assert stream_text(tmp_path / "d", "train") == gzip.decompress(source.read_bytes())


def test_parts_prepared_apart_give_the_bytes_of_one_call(tmp_path):
    sources = []
    for number in range(9):
        sources.append(tmp_path / f"{number}.txt")
        sources[-1].write_bytes(TEXT[: 3000 + 7000 * number])
    options = {
        "splits": "valid=0.2", "tokenizer": "sentencepiece", "vocab_size": 300, "shard_tokens": 10_000, "parts": 4,
        "workers": 1,
    }  # fmt: skip
    prepared(tmp_path / "whole", sources, **options)
    apart = tmp_path / "apart"
    with pytest.raises(DataError, match="run with --plan first"):
        prepared(apart, sources, part=0, **options)
    prepared(apart, sources, plan=True, **options)
    with pytest.raises(DataError, match="parts 0 to 3"):
        prepared(apart, sources, part=4, **options)
    for part in (2, 0, 3):
        prepared(apart, sources, part=part, **options)
    prepared(apart, sources, part=0, **options)  # a task that is started again
    index = prepared(apart, sources, resume=True, **options)  # the missing part and the index
    assert folder_content(apart) == folder_content(tmp_path / "whole")
    assert b"".join(stream_text(apart, split) for split in index.splits) == b"".join(p.read_bytes() for p in sources)


def test_more_parts_than_files_leave_some_empty(tmp_path):
    prepared(tmp_path / "d", TEXT, parts=5, splits="valid=0.1")
    assert b"".join(stream_text(tmp_path / "d", split) for split in ("train", "valid")) == TEXT


def test_two_writers_at_once_are_refused(tmp_path):
    from data_pipeline.prepare.output_folder import locked

    with locked(tmp_path / "d", shared=False), pytest.raises(DataError, match="another preparation is writing"):
        prepared(tmp_path / "d", TEXT)


WHOLE_CORPORA = (
    "enwik8-prefix/enwik8_first4000000.gz",
    pytest.param("eltec-eng/train.txt.xz", marks=pytest.mark.matrix),
    "wikitext-2/train.txt.gz",
    pytest.param("enwiki2014-plain-100M/enwiki2014_plain_100000000.xz", marks=pytest.mark.matrix),
)


@pytest.mark.slow
@pytest.mark.corpora
@pytest.mark.parametrize("name", WHOLE_CORPORA)
@pytest.mark.parametrize("tokenizer", ["bytes", "sentencepiece"])
def test_whole_corpora_come_back(tmp_path, name, tokenizer):
    source = corpus(name)
    index = prepared(tmp_path / "d", [source], tokenizer=tokenizer, vocab_size=4000, splits="valid=0.05,test=0.05")
    original = (block for block in text_blocks(SourceFile(str(source), source.name)))
    whole, decoded = hashlib.sha256(), hashlib.sha256()
    for block in original:
        whole.update(block)
    for split in index.splits:
        opened = open_split(tmp_path / "d", split)
        tokenizer_used = opened.tokenizer()
        for start in range(0, opened.num_tokens, 1 << 20):
            tokens = opened.read(start, min(start + (1 << 20), opened.num_tokens))
            decoded.update(tokenizer_used.decode(tokens.tolist()))
    assert decoded.hexdigest() == whole.hexdigest()
