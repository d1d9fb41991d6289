"""What is no UTF-8 or too long is handled as asked, for any way the text arrives in blocks, and always counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.prepare.documents import Text
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.text_policy import TextPolicy, counted, replaced, split_long

MIXED = st.lists(
    st.sampled_from([b"a", b"\n", "é".encode(), "漢".encode(), "😀".encode(), b"\xff", b"\xe6\xbc"]), max_size=20
)


def in_blocks(data: bytes, size: int) -> list[Text]:
    starts = range(0, len(data), size)
    return [Text(data[start : start + size], start + size >= len(data)) for start in starts]


@given(parts=MIXED, size=st.integers(1, 7))
def test_replacing_does_not_depend_on_blocks(parts, size):
    data = b"".join(parts)
    got = list(replaced(iter(in_blocks(data, size))))
    assert b"".join(text.data for text in got) == data.decode(errors="replace").encode()
    assert all(text.data for text in got)
    assert [text.ends_document for text in got] == [False] * (len(got) - 1) + [True] * bool(got)


@given(parts=MIXED, size=st.integers(1, 7))
def test_counting_finds_every_place_and_changes_nothing(parts, size):
    data, report = b"".join(parts), Report()
    got = list(counted(iter(in_blocks(data, size)), path="f", policy=TextPolicy(), report=report))
    assert got == in_blocks(data, size)
    bad = data.decode(errors="replace").count("\ufffd")
    assert report.counts.get("places that are no UTF-8", 0) == bad
    if bad:
        first = len(data.decode(errors="replace").split("\ufffd")[0].encode())
        assert report.examples["places that are no UTF-8"][0] == f"f: byte {first} of its text"


def test_failing_names_file_and_position():
    with pytest.raises(DataError, match="f: byte 3 of its text is not UTF-8"):
        list(counted(iter(in_blocks(b"abc\xff", 2)), path="f", policy=TextPolicy("fail"), report=Report()))


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6), limit=st.integers(1, 12), size=st.integers(1, 9))
def test_splitting_cuts_long_documents_only_and_loses_nothing(lengths, limit, size):
    documents = [bytes([97 + number]) * length for number, length in enumerate(lengths)]
    texts = [text for document in documents for text in in_blocks(document, size)]
    got, part = [], b""
    for text in split_long(iter(texts), limit=limit):
        assert text.data
        part += text.data
        if text.ends_document:
            got.append(part)
            part = b""
    assert part == b""
    assert got == [document[at : at + limit] for document in documents for at in range(0, len(document), limit)]
