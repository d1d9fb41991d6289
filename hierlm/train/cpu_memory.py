"""CPU training frees and takes the same large blocks every step: let the process keep them."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc refuses more on 64-bit machines


def keep_freed_blocks() -> None:
    """Tell glibc's malloc not to give freed memory back; without glibc nothing happens.

    Otherwise every tensor above 128 KiB is mapped anew, zeroed page by page, and unmapped: half the time of a step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
