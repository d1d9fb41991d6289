"""Whose turn it is to convert: one at a time, whichever job or command it belongs to. Torch-free.

The lock goes with the process that holds it, however that ends. On a file system without locks two may convert at the
same time, each in a directory of its own: that costs work, and nothing else.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

LOCK = "converting.lock"
_SECONDS_BETWEEN_TRIES = 0.2


@contextmanager
def turn_to_convert(checkpoints: Path, *, report: Callable[[str], None]) -> Iterator[None]:
    """Wait until nobody else converts a checkpoint in this directory; a wait is said once."""
    descriptor = os.open(checkpoints / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        has_said = False
        while _is_held_elsewhere(descriptor):
            if not has_said:
                report(f"{checkpoints}: another process is converting a checkpoint: waiting for it")
            has_said = True
            sleep(_SECONDS_BETWEEN_TRIES)
        yield
    finally:
        os.close(descriptor)


def is_converting(checkpoints: Path) -> bool:
    """Whether somebody is at it now."""
    try:
        descriptor = os.open(checkpoints / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _is_held_elsewhere(descriptor)
    finally:
        os.close(descriptor)


def _is_held_elsewhere(descriptor: int) -> bool:
    """Take the lock if it is free, until the descriptor is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # no locks here
    return False
