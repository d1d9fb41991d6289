"""What a file is, told by its first bytes: packed, an archive, or neither; names of files decide nothing here.

Magic numbers are those of each format's own description, and of file(1).
"""

import codecs
import re
from typing import Literal

HEAD_BYTES = 512  # a tar header, the longest of all
Packing = Literal["gzip", "bzip2", "xz", "lzma", "zstd"]

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)")  # a block of text, or the end of an empty stream
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
PACKED_NAMES = (".gz", ".xz", ".zst", ".bz2", ".lzma")
_ARCHIVE_NAMES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar")
_LZMA_HEAD_BYTES = 14
_LZMA_LARGEST = 1 << 38  # of text; xz takes a file that claims more for something else
_NOT_READ = {
    b"7z\xbc\xaf\x27\x1c": "7z archive",
    b"Rar!\x1a\x07": "rar archive",
    b"\x04\x22\x4d\x18": "lz4 file",
    b"\x02\x21\x4c\x18": "lz4 file",
    b"LZIP\x00": "lzip file",
    b"LZIP\x01": "lzip file",
    b"\x1f\x9d": "compress (.Z) file",
    b"\x1f\x9e": "freeze (.F) file",
    b"\x1f\x1e": "pack (.z) file",
    b"\x1f\xa0": "compress -H (.Z) file",
    b"\xff\x06\x00\x00sNaPpY": "framed snappy file",
    b"\x89LZO\x00\x0d\x0a\x1a\x0a": "lzop file",
    **{bytes([version]) + b"\xb5\x2f\xfd": "file of a zstd before 0.8" for version in (0x1E, *range(0x22, 0x28))},
}


def packing_of(head: bytes) -> Packing | None:
    """How a file with these first HEAD_BYTES is compressed; None when it is not, or in no way that is read."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if _BZIP2.match(head):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    if head.startswith(ZSTD_MAGIC) or is_skippable_frame(head):
        return "zstd"
    return "lzma" if _is_lzma(head) else None


def is_skippable_frame(head: bytes) -> bool:
    """Of zstd; holds no text."""
    return len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F


def is_zip(head: bytes) -> bool:
    """Whether a file begins as a zip archive does."""
    return head.startswith(_ZIP)


def is_tar(head: bytes) -> bool:
    """Whether a file begins with a tar header: by its checksum, which every kind of tar has (POSIX ustar; pax)."""
    field = head[148:156].strip(b"\0 ")
    if len(head) < HEAD_BYTES or not re.fullmatch(rb"[0-7]+", field):
        return False
    rest = head[:148] + b" " * 8 + head[156:]
    signed = sum(rest) - 256 * sum(byte > 127 for byte in rest)
    return int(field, 8) in (sum(rest), signed)


def other_kind(head: bytes) -> str | None:
    """What unpacked content is when it is no text, and what to do about it; None when nothing speaks against text."""
    if is_zip(head) or is_tar(head):
        return (
            f"it holds a {'zip' if is_zip(head) else 'tar'} archive; archives are read where they are local files and "
            "lie in no other archive: copy it here, or unpack it"
        )
    for magic, name in _NOT_READ.items():
        if head.startswith(magic):
            return f"it is a {name}, which is not read here; unpack it, or give --input 'pipe:COMMAND' that does"
    packing = packing_of(head)
    return packing and f"what it holds is compressed again ({packing}); unpack it once"


def broken_promise(head: bytes, *, name: str) -> str | None:
    """What is wrong with a file that is named as a packed one, begins as none, and is no text either.

    Text under such a name is common: web servers unpack what they send.
    """
    promised = next((ending for ending in PACKED_NAMES + _ARCHIVE_NAMES if name.lower().endswith(ending)), None)
    if promised is None or packing_of(head) or other_kind(head) or _is_text(head):
        return None
    return f"it is named {promised} but does not begin as such a file: damaged at its start, or else to be renamed"


def _is_text(head: bytes) -> bool:
    try:
        return b"\0" not in codecs.getincrementaldecoder("utf-8")().decode(head).encode()
    except UnicodeDecodeError:
        return False


def _is_lzma(head: bytes) -> bool:
    """xz's own test of a format without a magic number: only headers that an encoder writes."""
    if len(head) < _LZMA_HEAD_BYTES:
        return False
    properties, dictionary, size = head[0], int.from_bytes(head[1:5], "little"), head[5:13]
    literal_bits = properties % 9 + properties // 9 % 5
    is_known_dictionary = dictionary >= 1 << 12 and (
        dictionary == 0xFFFFFFFF or bin(dictionary).rstrip("0") in ("0b1", "0b11")
    )
    is_known_size = size == b"\xff" * 8 or int.from_bytes(size, "little") < _LZMA_LARGEST
    return properties < 225 and literal_bits <= 4 and is_known_dictionary and is_known_size and head[13] == 0
