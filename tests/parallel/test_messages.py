"""Objects arrive as they were sent, however long, in messages that are never long."""

from typing import Any

import pytest

from tests.distributed.spawn import run_ranks

LONG = 3_000_001


def spoken(longest_allowed: int) -> tuple[list[Any], Any, Any, int]:
    """On every rank: what was gathered, told and dealt, and the longest message it has sent or received."""
    import torch.distributed as dist

    from hierlm.parallel.messages import team_of
    from hierlm.parallel.process import start_processes

    start_processes()
    longest = 0

    def watched(name: str) -> None:
        really = getattr(dist, name)

        def call(message: Any, *rest: Any, **named: Any) -> Any:
            nonlocal longest
            longest = max(longest, message.nbytes)
            return really(message, *rest, **named)

        setattr(dist, name, call)

    for name in ("gather", "broadcast", "scatter", "all_reduce"):
        watched(name)
    team = team_of()
    gathered = team.gather((team.rank, b"x" * (LONG if team.rank == 1 else 1)))
    told = team.tell({"from": team.rank, "long": b"y" * LONG})
    dealt = team.scatter([bytes([65 + rank]) * (LONG if rank == 2 else 2) for rank in range(team.size)])
    assert longest <= longest_allowed
    return gathered, told["from"], (dealt[:1], len(dealt)), longest


@pytest.mark.distributed
def test_long_objects_go_in_pieces_and_arrive_whole() -> None:
    first, *others = run_ranks(spoken, 3, 1 << 20)
    assert [(rank, len(content)) for rank, content in first[0]] == [(0, 1), (1, LONG), (2, 1)]
    assert all(gathered == [] for gathered, *_ in others)
    assert {told for _, told, _, _ in (first, *others)} == {0}
    assert [dealt for _, _, dealt, _ in (first, *others)] == [(b"A", 2), (b"B", 2), (b"C", LONG)]
    assert max(longest for *_, longest in (first, *others)) > 1 << 18


def failing(rank: int) -> str:
    """On every rank: the words with which a step ended that failed on some of them."""
    from hierlm.checkpoint.team import TeamError
    from hierlm.parallel.messages import team_of
    from hierlm.parallel.process import start_processes

    start_processes()
    team = team_of()

    def action() -> None:
        if team.rank >= rank:
            raise OSError("no space")

    try:
        team.together(action)
    except TeamError as error:
        return str(error)
    return ""


@pytest.mark.distributed
def test_what_one_rank_cannot_do_all_are_told_in_the_same_line() -> None:
    assert run_ranks(failing, 3, 1) == ["rank 1: OSError: no space and 1 more"] * 3
