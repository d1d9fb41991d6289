"""Archives are the files they hold, in order; a compressed one is read forwards, once a pass."""

import gzip
import io
import json
import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.prepare import archives
from data_pipeline.prepare.documents import DocumentOptions, documents_of
from data_pipeline.prepare.filters import Filters
from data_pipeline.prepare.images import images_of
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.sources import find_files, text_blocks
from tests.data_pipeline.making import prepared, stream_text
from tests.data_pipeline.prepare.archive_making import FILES, KINDS, READ, contents, joined, tarred, written, zipped


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_files_in_the_archives_order(tmp_path, kind):
    path = written(tmp_path, kind, KINDS[kind](FILES))
    assert contents(path) == {f"{kind}/{name}": content for name, content in READ.items()}
    assert list(contents(path)) == [f"{kind}/{name}" for name in READ]
    assert [*contents(str(tmp_path))] == [*contents(path)], "in a folder as by name"


LAYOUTS = {
    "enwik8.zip": {"enwik8": b"<mediawiki>" * 1000},
    "text8.zip": {"text8": b" anarchism originated as a term of abuse" * 1000},
    "wikitext-103-v1.zip": {
        "wikitext-103/": b"",
        "wikitext-103/wiki.test.tokens": b" \n = Robert Boulter = \n",
        "wikitext-103/wiki.valid.tokens": b" \n = Homarus gammarus = \n",
        "wikitext-103/wiki.train.tokens": b" \n = Valkyria Chronicles III = \n",
    },
    "ptb.zip": {
        "ptb/": b"",
        "ptb/ptb.train.txt": b" aer banknote \n",
        "ptb/ptb.valid.txt": b" consumers may want\n",
        "__MACOSX/ptb/._ptb.train.txt": b"\0\5\x16\7",
    },
    "simple-examples.tgz": {"./simple-examples/data/ptb.train.txt": b" aer banknote \n"},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_corpora_are_read_as_they_are_downloaded(tmp_path, name):
    files = LAYOUTS[name]
    path = written(tmp_path, name, gzip.compress(tarred(files)) if name.endswith("tgz") else zipped(files))
    texts = {
        f"{name}/{member.removeprefix('./')}": content
        for member, content in files.items()
        if content and not member.startswith("__MACOSX")
    }
    assert contents(path) == texts


@pytest.mark.slow
def test_a_dataset_of_an_archive_is_that_of_its_files(tmp_path):
    """With several parts, workers, near duplicates looked for, and members of one archive as splits."""
    files = {f"{number:02}.txt": f"text {number} ".encode() * 900 for number in range(12)}
    (tmp_path / "folder").mkdir()
    for name, content in files.items():
        (tmp_path / "folder" / name).write_bytes(content)
    options = {"parts": 3, "workers": 2, "shard_tokens": 10_000, "filters": Filters(deduplicate="exact")}
    expected = prepared(tmp_path / "of-folder", [tmp_path / "folder"], splits="valid=0.1", **options)
    for kind in ("a.tar.zst", "deflated.zip"):
        path = written(tmp_path, kind, KINDS[kind](files))
        made = prepared(tmp_path / f"of-{kind}", [Path(path)], splits="valid=0.1", **options)
        assert made.splits == expected.splits
        path = f"{path}/0[0-5].txt"
        made = prepared(tmp_path / f"by-{kind}", [Path(path)], splits=f"valid={tmp_path / kind}/06.txt")
        assert stream_text(tmp_path / f"by-{kind}", "valid") == files["06.txt"]
        assert stream_text(tmp_path / f"by-{kind}", "train") == joined(dict([*files.items()][:6]))
        with pytest.raises(DataError, match=r"00\.txt is in train and in valid"):
            prepared(tmp_path / "shared", [Path(path)], splits=f"valid={tmp_path / kind}/00.txt")


def test_members_may_be_named_one_by_one_by_folder_or_by_pattern(tmp_path):
    path = written(tmp_path, "wikitext-103-v1.zip", zipped(LAYOUTS["wikitext-103-v1.zip"]))
    train = "wikitext-103-v1.zip/wikitext-103/wiki.train.tokens"
    assert [*contents(f"{path}/wikitext-103/wiki.train.tokens")] == [train]
    assert len(contents(f"{path}/wikitext-103")) == 3
    assert [*contents(f"{path}/*/wiki.tr*")] == [train]
    with pytest.raises(DataError, match=r"no such file in .*wiki.test.tokens"):
        find_files([f"{path}/wiki.train.tokens"])
    with pytest.raises(DataError, match="no such file or folder"):
        find_files([str(tmp_path / "absent.zip/x")])


@pytest.mark.parametrize("kind", ["a.tar.gz", "deflated.zip"])
def test_all_members_are_read_in_one_pass_over_the_archive(tmp_path, kind, monkeypatch):
    files = {f"{number:04}.txt": b"%d" % number for number in range(300)}
    found = find_files([written(tmp_path, kind, KINDS[kind](files))])
    opened = []
    real = archives.opened_archive
    monkeypatch.setattr(archives, "opened_archive", lambda *what: opened.append(what) or real(*what))
    for _ in range(3):
        assert [b"".join(text_blocks(file)) for file in found] == list(files.values())
    assert len(opened) <= 3


@pytest.mark.parametrize("kind", ["a.tar.gz", "pax.tar", "deflated.zip"])
def test_members_read_at_the_same_time_or_backwards_do_not_mix(tmp_path, kind):
    files = {f"{number}.txt": random.Random(number).randbytes(1 << 18) * 5 for number in range(4)}
    found = find_files([written(tmp_path, kind, KINDS[kind](files))])
    together = [b"", b"", b"", b""]
    for blocks in zip(*map(text_blocks, found), strict=True):
        together = [text + block for text, block in zip(together, blocks, strict=True)]
    assert together == list(files.values())
    assert [b"".join(text_blocks(file)) for file in found[::-1]] == list(files.values())[::-1]


def test_links_and_devices_are_counted_and_not_followed(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind in (("a", tarfile.SYMTYPE), ("b", tarfile.LNKTYPE), ("c", tarfile.FIFOTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "/etc/passwd"
            archive.addfile(header)
        header = tarfile.TarInfo("text")
        header.size = 4
        archive.addfile(header, io.BytesIO(b"text"))
    report = Report()
    path = written(tmp_path, "a.tar", stream.getvalue())
    assert contents(path, report=report) == {"a.tar/text": b"text"}
    assert report.counts == {"archive members that are no files": 3}
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zip_archive:
        zip_archive.writestr(link, "/etc/passwd")
        zip_archive.writestr("text", "text")
    report = Report()
    assert contents(written(tmp_path, "a.zip", stream.getvalue()), report=report) == {"a.zip/text": b"text"}
    assert report.counts == {"archive members that are no files": 1}


def test_records_and_images_in_archives_are_what_they_are_in_folders(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow.table({"text": ["one", "two"]}), tmp_path / "rows")
    array = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    np.savez(tmp_path / "images.npz", data=array)
    records = {
        "a.parquet": (tmp_path / "rows").read_bytes(),
        "b.jsonl.gz": gzip.compress(json.dumps({"text": "three"}).encode()),
        "c.csv": b"id,text\n1,four\n",
    }
    images = {"images.npz": (tmp_path / "images.npz").read_bytes()}
    for kind in ("deflated.zip", "a.tar.gz"):
        found = find_files([written(tmp_path, kind, KINDS[kind](records))])
        texts = [text.data for file in found for text in documents_of(file, options=DocumentOptions(), report=Report())]
        assert texts == [b"one", b"two", b"three", b"four"]
        found = find_files([written(tmp_path, kind, KINDS[kind](images))])
        assert [image.data for file in found for image in images_of(file)] == [image.tobytes() for image in array]
