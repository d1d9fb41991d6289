"""`pipe:COMMAND`, an input of `hierlm data prepare`: what a shell command gives.

Only what is typed on that command line is run. A config, an index or an address that somebody else wrote is not.
"""

import io
import subprocess
from typing import Any, BinaryIO, cast

from data_pipeline.errors import DataError
from data_pipeline.masking import PIPE, masked
from data_pipeline.remote import BUFFER_BYTES


def is_pipe(given: str) -> bool:
    """Whether an input is a command."""
    return given.startswith(PIPE)


def open_pipe(given: str) -> BinaryIO:
    """A buffered reader of what the command gives."""
    return io.BufferedReader(_Pipe(given.removeprefix(PIPE)), BUFFER_BYTES)


class _Pipe(io.RawIOBase):
    """The output of a shell command; a command that fails is an error at its end, never a short text."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = cast(io.BufferedReader, self._process.stdout).readinto(buffer)
        if count == 0 and self._process.wait() != 0:
            code = self._process.returncode
            raise DataError(f"{masked(PIPE + self._command)}: the command failed with exit code {code}")
        return count

    def close(self) -> None:
        if not self.closed:
            cast(io.BufferedReader, self._process.stdout).close()
            self._process.wait()
        super().close()
