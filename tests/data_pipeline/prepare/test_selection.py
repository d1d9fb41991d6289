"""Left out is what was asked to be left out, counted with its reason, and nothing else."""

import random

import pytest

from data_pipeline.errors import DataError
from data_pipeline.prepare.documents import DocumentOptions
from data_pipeline.prepare.filters import Filters, compressed_share, repeated_line_share
from data_pipeline.prepare.text_policy import TextPolicy
from tests.data_pipeline.making import prepared, stream_text

WORDS = [f"word{number}" for number in range(500)]


def essay(seed: int, words: int = 120) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def left(tmp_path, documents, **options):
    """(what remains, what dataset.json says was met) of documents given as lines."""
    content = b"".join((doc if isinstance(doc, bytes) else doc.encode()) + b"\n\n" for doc in documents)
    index = prepared(tmp_path / "d", content, documents=DocumentOptions("blank-line"), **options)
    remains = stream_text(tmp_path / "d", "train").split(b"\n\n")[:-1]
    assert index.totals.documents == len(remains)
    return remains, {kind: met["count"] for kind, met in index.made["met"].items()}


def test_exact_duplicates_go_and_the_first_stays(tmp_path):
    remains, met = left(tmp_path, ["a b", "c", "a b", "a  b", "c"], filters=Filters(deduplicate="exact"))
    assert remains == [b"a b", b"c", b"a  b"]
    assert met == {"documents left out: exact duplicate": 2}


def test_near_duplicates_go_and_different_documents_stay(tmp_path):
    pytest.importorskip("datasketch")
    originals = [essay(seed) for seed in range(20)]
    near = [text.replace(text.split()[60], "changed", 1) for text in originals[:10]]
    remains, met = left(tmp_path, originals + near, filters=Filters(deduplicate="near", near_threshold=0.8))
    assert remains == [text.encode() for text in originals]
    assert met == {"documents left out: near duplicate": 10}


def test_quality_filters_name_their_reason(tmp_path):
    good = essay(1)
    repeated = "\n".join(["the same line again"] * 20)
    noise = random.Random(0).randbytes(400).hex().encode() + random.Random(1).randbytes(400).replace(b"\n", b"")
    filters = Filters(
        min_document_bytes=10, max_repeated_line_share=0.5, min_compressed_share=0.1, max_compressed_share=0.8
    )
    remains, met = left(tmp_path, [good, "short", repeated, "ab" * 2000, noise], filters=filters)
    assert remains == [good.encode()]
    assert met == {
        "documents left out: too short": 1,
        "documents left out: repeated lines": 1,
        "documents left out: repetition": 1,
        "documents left out: noise": 1,
    }


def test_measures_of_quality():
    assert repeated_line_share(b"a\nb\na\n") == pytest.approx(1 / 3)
    assert repeated_line_share(b"\n\n\n") == 0.0
    assert compressed_share(b"ab" * 1000) < 0.05 < compressed_share(essay(3).encode())


def test_documents_that_are_no_utf8_are_kept_replaced_left_out_or_refused(tmp_path):
    documents = ["fine", b"bad \xff\xfe here", "fine too"]
    assert left(tmp_path / "keep", documents)[0] == [b"fine", documents[1], b"fine too"]
    remains, met = left(tmp_path / "replace", documents, policy=TextPolicy("replace"))
    assert remains[1] == "bad \ufffd\ufffd here".encode() and met == {"places that are no UTF-8": 2}
    remains, met = left(tmp_path / "skip", documents, policy=TextPolicy("skip"))
    assert remains == [b"fine", b"fine too"] and met == {"documents left out: not UTF-8": 1}
    with pytest.raises(DataError, match=r"d\.txt: byte 10 of its text is not UTF-8"):
        left(tmp_path / "fail", documents, policy=TextPolicy("fail"))


def test_documents_that_are_too_long_are_left_out_split_or_refused(tmp_path):
    documents = ["short", "x" * 100, "short again"]
    remains, met = left(tmp_path / "skip", documents, policy=TextPolicy(max_document_bytes=50))
    assert remains == [b"short", b"short again"] and met == {"documents left out: too long": 1}
    index = prepared(
        tmp_path / "split" / "d",
        "\n\n".join(documents).encode(),
        documents=DocumentOptions("blank-line"),
        policy=TextPolicy(max_document_bytes=50, long_documents="split"),
    )
    assert index.totals.documents == 5
    with pytest.raises(DataError, match="--max-document-bytes is 50"):
        left(tmp_path / "fail", documents, policy=TextPolicy(max_document_bytes=50, long_documents="fail"))


def test_broken_files_are_refused_or_left_out_whole(tmp_path):
    good, broken = tmp_path / "good.txt", tmp_path / "broken.txt"
    good.write_bytes(b"kept")
    broken.write_bytes(b"\x1f\x8b\x08\x00 not gzip")
    with pytest.raises(DataError, match=r"broken\.txt: cannot be read"):
        prepared(tmp_path / "a", [good, broken])
    index = prepared(tmp_path / "b", [broken, good], documents=DocumentOptions(broken="skip"))
    assert stream_text(tmp_path / "b", "train") == b"kept"
    assert index.made["met"]["broken files left out"]["count"] == 1
    assert "broken.txt" in index.made["met"]["broken files left out"]["first"][0]


def test_selection_is_the_same_for_any_number_of_workers_and_after_resume(tmp_path, monkeypatch):
    documents = "\n\n".join(essay(seed % 30, words=300) for seed in range(100)).encode()
    options = {
        "documents": DocumentOptions("blank-line"),
        "filters": Filters(deduplicate="exact"),
        "shard_tokens": 3_000,
        "tokenizer": "sentencepiece",
        "vocab_size": 400,
    }
    whole = prepared(tmp_path / "whole", documents, workers=1, **options)
    assert whole.made["met"]["documents left out: exact duplicate"]["count"] >= 69

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "broken.txt").write_bytes(documents)
    with monkeypatch.context() as patch:
        patch.setattr("data_pipeline.prepare.dataset.build_index", dies)
        with pytest.raises(KeyboardInterrupt):
            prepared(tmp_path / "broken", [tmp_path / "broken.txt"], workers=1, **options)
    journal = tmp_path / "broken" / "prepare.part-000.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-2]) + b'{"torn')
    resumed = prepared(tmp_path / "broken", [tmp_path / "broken.txt"], workers=2, resume=True, **options)
    assert resumed.splits == whole.splits
