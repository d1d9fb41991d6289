"""Archives give what tar and unzip give of them, or an error: nothing is lost of damaged or odd ones in silence."""

import gzip
import shutil
import struct
import subprocess
import tarfile
import zipfile

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.prepare.archive_reader import is_hidden
from data_pipeline.prepare.documents import DocumentOptions, documents_of
from data_pipeline.prepare.file_kinds import is_tar
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.sources import find_files
from tests.data_pipeline.making import FUZZ
from tests.data_pipeline.prepare.archive_making import KINDS, READ, contents, joined, tarred, written, zipped

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
@settings(max_examples=60 * FUZZ, deadline=None, phases=SEARCH)
def test_a_tar_gives_what_tar_gives_or_an_error(tmp_path_factory, files, form, how, place):
    if shutil.which("tar") is None:
        pytest.skip("tar is not installed")
    content = damaged(KINDS[f"{form}.tar"](files), how, place)
    if is_still(content, "tar"):
        compare(tmp_path_factory, "tar", content, ["tar", "-xOf"], packed=joined(files), is_whole=how == "none")


@given(files=TEXTS, method=st.sampled_from(["stored", "deflated"]), how=DAMAGE, place=st.integers(0, 1 << 16))
@settings(max_examples=60 * FUZZ, deadline=None, phases=SEARCH)
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


def test_a_size_below_zero_leads_nowhere(tmp_path):
    header = bytearray(tarfile.TarInfo("a").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 11 + b"\0"
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    with pytest.raises(DataError, match="archive"):
        contents(written(tmp_path, "a.tar", bytes(header) + bytes(2048)))
