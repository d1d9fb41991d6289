"""Archives are the files they hold, in order, whole or with an error; a compressed one is read forwards once a pass."""

import bz2
import gzip
import io
import json
import lzma
import random
import shutil
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.prepare import archives
from data_pipeline.prepare.archive_reader import is_hidden
from data_pipeline.prepare.documents import DocumentOptions, documents_of
from data_pipeline.prepare.file_kinds import is_tar
from data_pipeline.prepare.filters import Filters
from data_pipeline.prepare.images import images_of
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.sources import find_files, text_blocks
from tests.data_pipeline.making import prepared, stream_text

FILES = {
    "corpus/b.txt": b"second by name, first in the archive\n",
    "corpus/a.txt": b"x" * 70_000,
    "corpus/packed.txt.gz": gzip.compress(b"packed on its own\n"),
    ".hidden/x": b"not read",
    "corpus/.DS_Store": b"not read",
    "__MACOSX/corpus/._b.txt": b"not read",
    "corpus/empty.txt": b"",
}
READ = {
    "corpus/b.txt": FILES["corpus/b.txt"],
    "corpus/a.txt": FILES["corpus/a.txt"],
    "corpus/packed.txt.gz": b"packed on its own\n",
    "corpus/empty.txt": b"",
}


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return stream.getvalue()


KINDS = {
    "stored.zip": lambda files: zipped(files, zipfile.ZIP_STORED),
    "deflated.zip": zipped,
    "bzip2.zip": lambda files: zipped(files, zipfile.ZIP_BZIP2),
    "lzma.zip": lambda files: zipped(files, zipfile.ZIP_LZMA),
    "ustar.tar": lambda files: tarred(files, tarfile.USTAR_FORMAT),
    "gnu.tar": lambda files: tarred(files, tarfile.GNU_FORMAT),
    "pax.tar": tarred,
    "a.tar.gz": lambda files: gzip.compress(tarred(files)),
    "a.tar.xz": lambda files: lzma.compress(tarred(files)),
    "a.tar.bz2": lambda files: bz2.compress(tarred(files)),
    "a.tar.zst": lambda files: zstandard.ZstdCompressor().compress(tarred(files)),
    "named-nothing-at-all": lambda files: gzip.compress(tarred(files)),
}


def written(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


def contents(*given: str, report: Report | None = None) -> dict[str, bytes]:
    return {file.name: b"".join(text_blocks(file)) for file in find_files(given, report=report)}


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


TEXTS = st.dictionaries(
    st.text("abc./\xe4", min_size=1, max_size=8).map(lambda name: f"{name}x").filter(lambda name: not is_hidden(name)),
    st.binary(max_size=1500),
    min_size=1,
    max_size=5,
)


def damaged(content: bytes, how: str, place: int) -> bytes:
    at = place % len(content)
    changed = bytearray(content)
    if how == "flip":
        changed[at] ^= 1 + place % 255
    elif how == "zero":
        changed[at : at + 600] = bytes(len(changed[at : at + 600]))
    return bytes(changed[:at]) if how == "cut" else bytes(changed)


SEARCH = (Phase.explicit, Phase.generate)  # a failing archive is small enough as it is
DAMAGE = st.sampled_from(["none", "flip", "zero", "cut"])


def is_still(content: bytes, kind: str) -> bool:
    return content[:4] == b"PK\3\4" if kind == "zip" else is_tar(content[:512])


def joined(files: dict[str, bytes]) -> bytes:
    return b"".join(files.values())


def compare(tmp_path_factory, kind: str, content: bytes, command: list[str], *, packed: bytes, is_whole: bool) -> None:
    """Members joined, against what the tool writes of the same file, and what was packed where checksums tell."""
    path = written(tmp_path_factory.mktemp("a"), f"file.{kind}", content)
    done = subprocess.run([*command, path], capture_output=True, check=False)
    report = Report()
    try:
        texts = b"".join(b"".join(_raw(file)) for file in find_files([path], report=report))
    except DataError:
        assert not is_whole
        return
    if report.counts:
        return  # what is left out is said
    assert texts == done.stdout or done.returncode != 0
    if kind == "zip":  # of a damaged one unzip may write anything
        assert texts == packed or any(map(is_hidden, zipfile.ZipFile(path).namelist()))
    else:
        assert len(texts) >= len(done.stdout)


def _raw(file):
    try:
        with file.open_stored() as stored:
            return [stored.read()]
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from None


@given(files=TEXTS, form=st.sampled_from(["ustar", "gnu", "pax"]), how=DAMAGE, place=st.integers(0, 1 << 16))
@settings(max_examples=60, deadline=None, phases=SEARCH)
def test_a_tar_gives_what_tar_gives_or_an_error(tmp_path_factory, files, form, how, place):
    if shutil.which("tar") is None:
        pytest.skip("tar is not installed")
    content = damaged(KINDS[f"{form}.tar"](files), how, place)
    if is_still(content, "tar"):
        compare(tmp_path_factory, "tar", content, ["tar", "-xOf"], packed=joined(files), is_whole=how == "none")


@given(files=TEXTS, method=st.sampled_from(["stored", "deflated"]), how=DAMAGE, place=st.integers(0, 1 << 16))
@settings(max_examples=60, deadline=None, phases=SEARCH)
def test_a_zip_gives_what_unzip_gives_or_an_error(tmp_path_factory, files, method, how, place):
    if shutil.which("unzip") is None:
        pytest.skip("unzip is not installed")
    content = damaged(KINDS[f"{method}.zip"](files), how, place)
    if is_still(content, "zip"):
        compare(tmp_path_factory, "zip", content, ["unzip", "-pqq"], packed=joined(files), is_whole=how == "none")


def test_a_header_that_is_none_is_not_the_end(tmp_path):
    content = bytearray(tarred(READ, tarfile.USTAR_FORMAT))
    content[1024 + 10] ^= 1  # in the name of the second member
    path = written(tmp_path, "a.tar", bytes(content))
    with pytest.raises(DataError, match=r"at byte 1024 of the tar: what should be a header is none"):
        contents(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tarred(READ) + tarred(READ), "more stands behind its end"),
        (gzip.compress(tarred(READ))[:-30], "ends in the middle of a gzip stream"),
        (gzip.compress(tarred(READ)) + b"\0more", "what follows the gzip stream is no gzip"),
        (tarred({"a": bytes(9999)})[:5000], "unexpected end of data"),
        (zipped(READ) + zipped({}), "bytes stand before its first member"),
        (zipped(READ)[:-30], "not a zip file"),
        (zipped({}), "holds no file"),
    ],
)
def test_what_an_archive_lost_is_said(tmp_path, content, said):
    path = written(tmp_path, "archive", content)
    with pytest.raises(DataError, match=rf"archive: cannot be read: .*{said}"):
        contents(path)
    documents = DocumentOptions(broken="skip")
    assert all(file.path == path for file in find_files([path])), "left out as any other broken file"
    with pytest.raises(DataError):
        list(documents_of(find_files([path])[0], options=documents, report=Report()))


def test_a_member_with_a_wrong_checksum_is_named(tmp_path):
    content = zipped({"a.txt": b"abcdefgh"}, zipfile.ZIP_STORED).replace(b"abcdefgh", b"abcdefgx")
    with pytest.raises(DataError, match=r"a\.zip/a\.txt: cannot be read .*CRC"):
        contents(written(tmp_path, "a.zip", content))


def zip_with(*, flags: int = 0, method: int = 0) -> bytes:
    """A zip whose one member says so of itself."""
    content = bytearray(zipped({"a.txt": b"text"}, zipfile.ZIP_STORED))
    directory = content.index(b"PK\1\2")
    for at in (6, directory + 8):
        struct.pack_into("<HH", content, at, flags, method)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (zip_with(flags=1), "it is encrypted; unpack"),
        (zip_with(method=9), r"method 9 \(deflate64\); unpack"),
        (zip_with(method=93), r"method 93 \(zstd\); unpack"),
        (zipped({"a.txt": zipped(READ)}), "holds a zip archive; archives are read where"),
        (zipped({"a.txt": gzip.compress(tarred(READ))}), "holds a tar archive; archives are read where"),
        (tarred({"a.txt": zipped(READ)}), "holds a zip archive; archives are read where"),
        (tarred({"a.txt": b"7z\xbc\xaf\x27\x1c"}), "is a 7z archive, which is not read here"),
    ],
)
def test_members_that_are_no_text_are_refused_by_name(tmp_path, content, said):
    with pytest.raises(DataError, match=rf"archive/a\.txt: cannot be read after byte 0 of its text: .*{said}"):
        contents(written(tmp_path, "archive", content))


def test_an_archive_that_is_elsewhere_is_refused(tmp_path):
    path = written(tmp_path, "a.zip", zipped(READ))
    with pytest.raises(DataError, match="holds a zip archive; archives are read where they are local files"):
        contents(f"pipe:cat {path}")


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


def test_a_size_below_zero_leads_nowhere(tmp_path):
    header = bytearray(tarfile.TarInfo("a").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 11 + b"\0"
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    with pytest.raises(DataError, match="archive"):
        contents(written(tmp_path, "a.tar", bytes(header) + bytes(2048)))


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
