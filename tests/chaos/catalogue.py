"""All faults, in an order in which an attempt that survives one meets a few more before another ends it."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tests.chaos.controller import controller_down
from tests.chaos.faults import FROM_OUTSIDE, Fault, disk_full_in_a_save
from tests.chaos.injected_faults import FROM_INSIDE, OF_CALLS, clock_back_an_hour, rename_answered_twice
from tests.chaos.injection import library
from tests.chaos.surroundings import AROUND, has_mounts, temporary_places_full
from tests.slurm.cluster import why_no_slurm

SURVIVED = (*OF_CALLS, rename_answered_twice, clock_back_an_hour)
"""What an attempt should outlive; the others end one."""


def _in_turn() -> Iterator[Fault]:
    ending = iter([fault for fault in (*FROM_OUTSIDE, *FROM_INSIDE, *AROUND, controller_down) if fault not in SURVIVED])
    for fault in SURVIVED:
        yield fault
        yield from islice(ending, 1)
    yield from ending


FAULTS: tuple[Fault, ...] = tuple(_in_turn())


def why_not(fault: Fault, folder: Path) -> str | None:
    """Why a fault cannot be had here."""
    if fault is disk_full_in_a_save and not os.path.ismount(folder):
        return "needs root and a mount, to have a small disk of its own"
    if fault is temporary_places_full and not has_mounts():
        return "needs mount namespaces (root, unshare)"
    if fault in SURVIVED and library(folder.parent) is None:
        return "needs a C compiler, for what stands between a process and the C library"
    if fault is controller_down:
        return why_no_slurm()
    return None
