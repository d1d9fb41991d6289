"""Cutting the corpus: nothing lost, cut where a split ends, and the same from any piece on."""

from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.prepare.corpus import Reading
from data_pipeline.prepare.documents import DocumentOptions
from data_pipeline.prepare.pieces import Group, Position, pieces
from data_pipeline.prepare.sources import SourceFile

FILES = st.lists(st.text(alphabet="aé\n 漢😀", max_size=60).map(str.encode), min_size=1, max_size=5)


def group_of(folder, contents, shares):
    files = []
    for number, content in enumerate(contents):
        path = folder / f"{number}.txt"
        path.write_bytes(content)
        files.append(SourceFile(str(path), path.name))
    total = sum(map(len, contents))
    ends = (*sorted(round(total * share) for share in shares), total)
    return Group(tuple(files), tuple(f"s{number}" for number in range(len(ends))), ends)


@settings(max_examples=60)
@given(
    contents=FILES,
    shares=st.lists(st.floats(0.05, 0.95), max_size=2),
    piece_bytes=st.integers(8, 50),
    mode=st.sampled_from(["file", "blank-line"]),
    cut_anywhere=st.booleans(),
)
def test_pieces_are_the_text_and_restart_anywhere(tmp_path_factory, contents, shares, piece_bytes, mode, cut_anywhere):
    group = group_of(tmp_path_factory.mktemp("corpus"), contents, shares)
    options = {"reading": Reading(DocumentOptions(mode)), "piece_bytes": piece_bytes, "cut_anywhere": cut_anywhere}
    whole = list(pieces([group], start=Position(), **options))
    text = b"".join(contents)
    assert b"".join(piece.data for piece in whole) == text
    for number, piece in enumerate(whole):
        assert 0 < len(piece.data) <= piece_bytes
        assert list(pieces([group], start=piece.start, **options)) == whole[number:]
        if not cut_anywhere:
            piece.data.decode()  # whole characters only
    if cut_anywhere:
        begin = 0
        for name, end in zip(group.splits, group.ends, strict=True):
            assert b"".join(piece.data for piece in whole if piece.split == name) == text[begin:end]
            begin = end


@settings(max_examples=40)
@given(contents=FILES, piece_bytes=st.integers(8, 50))
def test_every_file_is_one_document(tmp_path_factory, contents, piece_bytes):
    group = group_of(tmp_path_factory.mktemp("corpus"), contents, [])
    ends, begin = [], 0
    for piece in pieces([group], reading=Reading(), start=Position(), piece_bytes=piece_bytes):
        ends += [begin + end for end in piece.document_ends]
        begin += len(piece.data)
    sizes = [len(content) for content in contents if content]
    assert ends == [sum(sizes[: number + 1]) for number in range(len(sizes))]
