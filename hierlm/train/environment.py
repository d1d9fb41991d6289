"""Before the first step: are all processes the same kind of machine with the same software, and do they compute alike?

One node with an old image, a hidden GPU or broken memory spoils a run of hundreds; here it is named.
"""

import platform
import socket
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import NamedTuple

import torch

from hierlm.checkpoint.team import Team
from hierlm.errors import UserError
from hierlm.parallel.process import ProcessInfo

MUST_AGREE = ("python", "torch", "deepspeed", "hierlm", "device", "computes")
"""Facts in which no process may differ from most others."""

CLOCK_SECONDS = 60.0
"""Clocks further apart than this make logs and heartbeats misleading, which is said and no more."""

_SIDE = 128


class Facts(NamedTuple):
    """What one process finds about itself."""

    rank: int
    host: str
    clock: float
    of: dict[str, str]


class BadNodeError(RuntimeError):
    """Processes differ where they may not; one line that names host and difference."""


def check_environment(process: ProcessInfo, *, team: Team, tensor_degree: int = 1) -> list[str]:
    """Compare all processes; warnings, the same on every rank. BadNodeError on every rank when one stands out.

    UserError on every rank when tensor-parallel ranks are on different hosts.
    """
    everyone = team.gather(_own_facts(process))
    parted = parted_tensor_group(everyone, tensor_degree=tensor_degree)
    found = (parted, differences(everyone), clock_warnings(everyone)) if team.is_first else None
    problems: list[str]
    warnings: list[str]
    parted, problems, warnings = team.tell(found)
    if parted:
        raise UserError(parted)
    if problems:
        raise BadNodeError("; ".join(problems))
    return warnings


def differences(everyone: Sequence[Facts]) -> list[str]:
    """`host node3 (ranks 6, 7): torch 2.12.0, most have 2.13.0`: one line per host and fact that stands out."""
    found = []
    for name in MUST_AGREE:
        usual = Counter(facts.of[name] for facts in everyone).most_common(1)[0][0]
        odd = [facts for facts in everyone if facts.of[name] != usual]
        for host, value in sorted({(facts.host, facts.of[name]) for facts in odd}):
            ranks = ", ".join(str(f.rank) for f in odd if (f.host, f.of[name]) == (host, value))
            found.append(f"host {host} (ranks {ranks}): {name} {value}, most have {usual}")
    return found


def parted_tensor_group(everyone: Sequence[Facts], *, tensor_degree: int) -> str | None:
    """One line for the first tensor group that hosts share: neighbouring ranks, which exchange every layer."""
    for first in range(0, len(everyone), tensor_degree):
        group = everyone[first : first + tensor_degree]
        hosts = sorted({facts.host for facts in group})
        if len(hosts) > 1:
            return (
                f"parallel.tensor_parallel_degree: given {tensor_degree}, and ranks {group[0].rank} to "
                f"{group[-1].rank} are on {', '.join(hosts)}: they have to share a node; start a multiple of "
                f"{tensor_degree} processes on each"
            )
    return None


def clock_warnings(everyone: Sequence[Facts]) -> list[str]:
    """Hosts whose clock is far from the first one's."""
    first = everyone[0]
    odd = {
        facts.host: facts.clock - first.clock for facts in everyone if abs(facts.clock - first.clock) > CLOCK_SECONDS
    }
    return [f"warning: the clock of {host} is {off:+.0f} s off that of {first.host}" for host, off in odd.items()]


def _own_facts(process: ProcessInfo) -> Facts:
    on_gpu = process.device.type == "cuda"
    of = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "deepspeed": version("deepspeed"),
        "hierlm": version("hierlm"),
        "device": torch.cuda.get_device_name(process.device) if on_gpu else f"cpu {platform.machine()}",
        "computes": _checksum(process.device),
    }
    return Facts(process.rank, socket.gethostname(), time.time(), of)


def _checksum(device: torch.device) -> str:
    """A product of whole numbers small enough to be exact in fp32, whatever the order of its sums."""
    numbers = torch.arange(_SIDE * _SIDE, device=device).remainder(17).float().view(_SIDE, _SIDE)
    weights = torch.arange(_SIDE, device=device, dtype=torch.float64)
    return str(int(((numbers @ numbers).double() * weights).sum().item()))
