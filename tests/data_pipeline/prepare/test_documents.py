"""Documents are found in every kind of file, for any size of block; nothing broken is passed over in silence."""

import csv
import gzip
import io
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


JSON_LINES = b'{"text": "one"}\n{"text": "two"}\n'


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        (JSON_LINES, [b"one", b"two"]),
        (b"\xef\xbb\xbf\n" + JSON_LINES, [b"one", b"two"]),
        (b'{"text": "one"}', [b"one"]),
        (b'{"other": "one"}', [b'{"other": "one"}']),
        (b'{\n  "text": "one"\n}\n', [b'{\n  "text": "one"\n}\n']),
        (b'[{"text": "one"}]\n', [b'[{"text": "one"}]\n']),
        (b"", []),
    ],
)
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_json_lines_are_told_from_other_json_by_content(tmp_path, content, documents, block, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK_BYTES", block)
    assert found(written(tmp_path, content, "c4.json")) == documents
    assert found(written(tmp_path, gzip.compress(content), "c4.json.gz")) == documents


def test_json_lines_longer_than_what_is_looked_at_first_are_told_too(tmp_path):
    lines = [json.dumps({"id": number, "text": "x" * 300_000}).encode() for number in range(3)]
    assert [len(text) for text in found(written(tmp_path, b"\n".join(lines), "a.json"))] == [300_000] * 3
    with pytest.raises(DataError, match="line 1: no field 'body'"):
        found(written(tmp_path, b"\n".join(lines), "a.json"), field="body")


def test_json_that_is_nested_too_deeply_is_a_broken_record(tmp_path):
    deep = b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    for name in ("a.jsonl", "a.json"):
        path = written(tmp_path, JSON_LINES + deep, name)
        with pytest.raises(DataError, match="line 3: JSON nested too deeply"):
            found(path)
        report = Report()
        assert found(path, report, broken="skip") == [b"one", b"two"]
        assert report.counts == {"broken records left out": 1}
        assert found(written(tmp_path, deep + JSON_LINES, name), broken="skip") == [b"one", b"two"]


CELL = st.text(alphabet="ab\"',;\t\r\n \xe4\U0001f600", max_size=8)


@given(rows=st.lists(st.tuples(CELL, CELL), max_size=6), block=st.integers(1, 9), form=st.sampled_from(["csv", "tsv"]))
def test_the_column_of_a_table_comes_back_whatever_it_holds(tmp_path_factory, rows, block, form):
    stream = io.StringIO()
    csv.writer(stream, delimiter="," if form == "csv" else "\t").writerows([("id", "text"), *rows])
    path = written(tmp_path_factory.mktemp("d"), stream.getvalue().encode(), f"a.{form}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_BYTES", block)
        assert found(path) == [text.encode() for _, text in rows if text]


def test_tables_keep_bytes_that_are_no_utf_8_and_long_cells(tmp_path):
    content = b"\xef\xbb\xbftext;id\r\n\xff\xe9;1\r\n" + b"y" * 300_000 + b";2\r\n"
    assert found(written(tmp_path, content, "a.csv")) == [b"\xff\xe9", b"y" * 300_000]
    assert found(written(tmp_path, b"text\tid\nx\t1\n", "a.txt"), mode="csv") == [b"x"]


def test_a_table_without_the_column_is_a_file_or_refused(tmp_path):
    path = written(tmp_path, b"id,body\n1,one\n", "a.csv")
    assert found(path) == [b"id,body\n1,one\n"]
    assert found(path, field="body") == [b"one"]
    with pytest.raises(DataError, match=r"names no column 'text' \(there: id,body\)"):
        found(path, mode="csv")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b"1,two,three\n", "line 3: 3 columns, the header has 2"),
        (b'1,"two" three\n', "line 3: not CSV"),
        (b'1,"never closed\n', "line 3: not CSV"),
    ],
)
def test_a_broken_row_is_named_or_counted(tmp_path, row, said):
    path = written(tmp_path, b"id,text\n0,good\n" + row, "a.csv")
    with pytest.raises(DataError, match=said):
        found(path)
    report = Report()
    assert found(path, report, broken="skip") == [b"good"]
    assert report.counts == {"broken records left out": 1}


def test_a_parquet_file_that_was_packed_is_read(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow.table({"text": ["one", "two"]}), tmp_path / "rows")
    assert found(written(tmp_path, gzip.compress((tmp_path / "rows").read_bytes()), "a.parquet.gz")) == [b"one", b"two"]


def test_a_separator_must_be_given(tmp_path):
    with pytest.raises(DataError, match="needs --separator"):
        found(written(tmp_path, b"x"), mode="separator")


def test_every_mode_is_documented_by_its_type():
    assert set(documents.DOCUMENT_MODES) == {"auto", "file", "blank-line", "separator", "jsonl", "csv", "parquet"}
