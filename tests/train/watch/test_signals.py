"""A stop request is agreed by all ranks or by none, whenever the signal comes."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.spawn import run_ranks


def answers_with_a_signal_during_the_agreement(signalled_rank: int) -> list[bool]:
    """Three agreements; the signal comes on one rank just after it has told the others that it knows of none."""
    import torch
    import torch.distributed as dist

    from hierlm.parallel.process import start_processes
    from hierlm.train.watch.signals import StopRequest

    process = start_processes()
    stop, really_all_reduce = StopRequest(), dist.all_reduce
    stop.install()
    calls = 0

    def all_reduce(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 and process.rank == signalled_rank:
            signal.raise_signal(signal.SIGUSR1)
        return really_all_reduce(*arguments, **options)

    dist.all_reduce = all_reduce
    return [stop.agreed(torch.device("cpu")) for _ in range(3)]


@pytest.mark.distributed
@pytest.mark.parametrize("signalled_rank", [0, 1])
def test_all_ranks_agree_whenever_the_signal_comes(signalled_rank: int) -> None:
    first, second = run_ranks(answers_with_a_signal_during_the_agreement, 2, signalled_rank)
    assert first == second == [False, False, True]


def what_a_newcomer_does_to_the_ranks(leases: Path) -> list[str]:
    """What each agreement gives, the last one after another attempt has taken the run."""
    import torch

    from hierlm.lease import TakenOverError, take
    from hierlm.parallel.process import start_processes
    from hierlm.train.watch import signals

    signals.LEASE_POLL_SECONDS = 0.0
    process = start_processes()
    stop = signals.StopRequest()
    if process.rank == 0:
        stop.watch(take(leases))
    answers = [str(stop.agreed(torch.device("cpu")))]
    if process.rank == 0:
        take(leases)
    stop.signal_name = "SIGTERM" if process.rank == 1 else None  # to save would be wrong now
    try:
        answers.append(str(stop.agreed(torch.device("cpu"))))
    except TakenOverError:
        answers.append("taken over")
    return answers


@pytest.mark.distributed
def test_all_ranks_end_together_when_another_attempt_takes_over(tmp_path: Path) -> None:
    first, second = run_ranks(what_a_newcomer_does_to_the_ranks, 2, tmp_path)
    assert first == second == ["False", "taken over"]
