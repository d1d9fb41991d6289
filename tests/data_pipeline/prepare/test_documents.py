"""Documents are found in every kind of file, for any size of block; nothing broken is passed over in silence."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.prepare import documents, sources
from data_pipeline.prepare.documents import DocumentOptions, documents_of
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.sources import SourceFile


def found(path, report=None, **options):
    """The documents of a file, whole."""
    whole, part = [], b""
    for text in documents_of(
        SourceFile(str(path), path.name), options=DocumentOptions(**options), report=report or Report()
    ):
        assert text.data, "an empty text may not be passed on"
        part += text.data
        if text.ends_document:
            whole.append(part)
            part = b""
    assert part == b"", "the end of the file ends a document"
    return whole


def written(folder, content: bytes, name="text.txt"):
    path = folder / name
    path.write_bytes(content)
    return path


def blank_line_documents(text: bytes) -> list[bytes]:
    """The obvious way, with everything in memory."""
    whole, start, position = [], 0, 0
    while (position := text.find(b"\n\n", position)) >= 0:
        while text[position : position + 1] == b"\n":
            position += 1
        whole.append(text[start:position])
        start = position
    return [*whole, text[start:]] if start < len(text) else whole


@given(text=st.text(alphabet="ab\n", max_size=60), block=st.integers(1, 9))
def test_blank_lines_end_documents_for_any_block_size(tmp_path_factory, text, block):
    path = written(tmp_path_factory.mktemp("d"), text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_BYTES", block)
        assert found(path, mode="blank-line") == blank_line_documents(text.encode())


@given(text=st.text(alphabet="ab|", max_size=60), block=st.integers(1, 9))
def test_separators_stay_with_the_document_they_end(tmp_path_factory, text, block):
    path = written(tmp_path_factory.mktemp("d"), text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_BYTES", block)
        got = found(path, mode="separator", separator="||")
    assert b"".join(got) == text.encode()
    *before, last = text.split("||")
    assert got == [part.encode() + b"||" for part in before] + ([last.encode()] if last else [])


RECORDS = [
    {"text": "one\nline"},
    {"text": "zwei \u2581 \U0001f600", "meta": {"body": "inner"}},
    {"text": ""},
    {"text": "x"},
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.NDJSON"])
def test_json_lines_are_known_by_name_and_packed_or_not(tmp_path, name):
    content = "\n".join(json.dumps(record) for record in RECORDS).encode() + b"\n\n"
    path = written(tmp_path, gzip.compress(content) if name.endswith(".gz") else content, name)
    report = Report()
    assert found(path, report) == [record["text"].encode() for record in RECORDS if record["text"]]
    assert report.counts == {"empty documents": 1}


def test_a_field_may_lie_inside_another(tmp_path):
    path = written(tmp_path, json.dumps(RECORDS[1]).encode(), "a.jsonl")
    assert found(path, field="meta.body", record_end="\n\n") == [b"inner\n\n"]


def test_a_line_of_fifty_megabytes_is_one_document(tmp_path):
    text = "0123456789" * 5_000_000
    path = written(
        tmp_path, json.dumps({"text": text}).encode() + b"\n" + json.dumps({"text": "next"}).encode(), "a.jsonl"
    )
    assert [len(document) for document in found(path)] == [50_000_000, 4]


def test_lone_surrogates_of_json_survive_as_bytes(tmp_path):
    assert found(written(tmp_path, b'{"text": "a\\ud800b"}', "a.jsonl")) == [b"a\xed\xa0\x80b"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{broken", "line 2: not JSON"),
        (b'{"other": 1}', "line 2: no field 'text' (there: other)"),
        (b'{"text": 5}', "line 2: field 'text' is int, not text"),
        (b"[1, 2]", "line 2: no field 'text' (there: list)"),
        (b'{"text": "\xff"}', "line 2: not JSON"),
    ],
)
def test_a_broken_record_is_named_or_counted(tmp_path, line, said):
    path = written(tmp_path, b'{"text": "good"}\n' + line + b'\n{"text": "too"}\n', "a.jsonl")
    with pytest.raises(DataError) as error:
        found(path)
    assert f"{path}: {said}" in str(error.value) and "--broken skip" in str(error.value)
    report = Report()
    assert found(path, report, broken="skip") == [b"good", b"too"]
    assert report.counts == {"broken records left out": 1} and said in report.examples["broken records left out"][0]


def test_parquet_rows_are_documents(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(arrow.table({"text": ["one", None, "", "four"], "id": [1, 2, 3, 4]}), path)
    report = Report()
    assert found(path, report, broken="skip") == [b"one", b"four"]
    assert report.counts == {"broken records left out": 1, "empty documents": 1}
    with pytest.raises(DataError, match="row 2: field 'text' is NoneType"):
        found(path)
    with pytest.raises(DataError, match="no field 'body'"):
        found(path, field="body")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        found(path)


def test_a_separator_must_be_given(tmp_path):
    with pytest.raises(DataError, match="needs --separator"):
        found(written(tmp_path, b"x"), mode="separator")


def test_every_mode_is_documented_by_its_type():
    assert set(documents.DOCUMENT_MODES) == {"auto", "file", "blank-line", "separator", "jsonl", "parquet"}
