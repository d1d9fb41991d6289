"""Bytes that lie elsewhere: `https://`, and whatever fsspec knows (`s3://`, `gs://`, ...).

A read that fails is tried again from the same position, with growing pauses. Addresses may be somebody else's: none of
them runs a command (`prepare/pipe.py` does, of what is typed), and what is read whole has a bound.
"""

import io
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from data_pipeline.errors import DataError
from data_pipeline.masking import PIPE, masked

TRIES = 5
FIRST_PAUSE_SECONDS = 0.5  # doubles with every try
TIMEOUT_SECONDS = 60
BUFFER_BYTES = 1 << 20
MAX_SMALL_BYTES = 1 << 28
"""Of an index or a tokenizer: that of 100,000 shards has a tenth of it."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://")


def is_remote(path: str | Path) -> bool:
    """Whether `path` is an address and not a place in the file system."""
    return isinstance(path, str) and _ADDRESS.match(path) is not None and not path.startswith("file://")


def refuse_command(path: str | Path) -> None:
    """DataError for `pipe:COMMAND`, which only the command line of a preparation may name."""
    if str(path).lstrip().startswith(PIPE):
        raise DataError(
            f"{path}: a command is run for `hierlm data prepare --input` alone; prepare what it gives as a "
            "dataset, and name its folder"
        )


def open_remote(address: str) -> BinaryIO:
    """A buffered reader of what lies at `address`. DataError when that cannot be reached or is not there."""
    refuse_command(address)
    return io.BufferedReader(RemoteReader(address), BUFFER_BYTES)


def read_file(folder: str | Path, name: str) -> bytes:
    """The whole of a small file in a folder that is local or remote. OSError as for a local one."""
    refuse_command(folder)
    if not is_remote(folder):
        return (Path(folder) / name).read_bytes()
    address = f"{str(folder).rstrip('/')}/{name}"
    with open_remote(address) as file:
        content = file.read(MAX_SMALL_BYTES + 1)
    if len(content) > MAX_SMALL_BYTES:
        raise DataError(f"{masked(address)}: more than {MAX_SMALL_BYTES >> 20} MiB, which no {name} has")
    return content


def remote_size(address: str) -> int:
    """Bytes at `address` as stored."""
    return int(RemoteReader(address).size)


def glob_remote(pattern: str) -> list[str]:
    """Addresses that match a pattern, by name; only where the store can list (not https)."""
    scheme = pattern.partition("://")[0]
    store = _fsspec(pattern).filesystem(scheme)
    return [f"{scheme}://{name}" for name in sorted(store.glob(pattern))]


class RemoteReader(io.RawIOBase):
    """Reads from a position on, reopening there after a failure; can seek, because it can reopen anywhere."""

    def __init__(self, address: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._address, self._sleep = address, sleep
        self._stream: Any = None
        self._position = 0
        self.size = self._retried(lambda: _size(address))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._drop()
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(self.size - self._position, 0))
        data = self._retried(lambda: self._read(wanted)) if wanted else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._drop()
        super().close()

    def _read(self, wanted: int) -> bytes:
        if self._stream is None:
            self._stream = _open_at(self._address, self._position)
        data: bytes = self._stream.read(wanted)
        if not data:
            raise ConnectionError(f"the connection ended at byte {self._position} of {self.size}")
        return data

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def _retried(self, work: Callable[[], Any]) -> Any:
        for attempt in range(TRIES):
            try:
                return work()
            except Exception as error:  # stores raise their own kinds
                self._drop()
                if attempt + 1 == TRIES or _is_final(error):
                    raise DataError(f"{masked(self._address)}: cannot be read ({_said(error)})") from None
                self._sleep(FIRST_PAUSE_SECONDS * 2**attempt)
        raise AssertionError("unreachable")


def _is_final(error: Exception) -> bool:
    """Whether trying again is useless."""
    refused = isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code not in (408, 429)
    return refused or isinstance(error, (FileNotFoundError, PermissionError, DataError))


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _size(address: str) -> int:
    if not address.startswith(("http://", "https://")):
        store, path = _fsspec(address).core.url_to_fs(address)
        return int(store.info(path)["size"])
    request = urllib.request.Request(address, method="HEAD")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        return int(answer.headers["Content-Length"])


def _open_at(address: str, position: int) -> Any:
    if not address.startswith(("http://", "https://")):
        file = _fsspec(address).open(address, "rb").open()
        file.seek(position)
        return file
    request = urllib.request.Request(address, headers={"Range": f"bytes={position}-"})
    answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    if position and answer.status != 206:
        _skip(answer, position)  # the server knows no ranges
    return answer


def _skip(stream: Any, count: int) -> None:
    while count and (data := stream.read(min(count, 1 << 20))):
        count -= len(data)


def _fsspec(address: str) -> Any:
    scheme = address.partition("://")[0]
    if "::" in address:  # fsspec would read one address through another, and templates of a third one
        raise DataError(f"{masked(address)}: an address is one, without `::`")
    try:
        import fsspec

        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        raise DataError(f"{masked(address)}: {scheme}:// cannot be read here ({_said(error)})") from None
    return fsspec
