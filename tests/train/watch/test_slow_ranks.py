"""A rank is called slow once, after several probes in a row, and never for a passing load."""

from hierlm.train.watch.node_beats import Heartbeat
from hierlm.train.watch.slow_ranks import PATIENCE, SLOW, SlowRanks


def beats(*seconds: float | None) -> list[Heartbeat]:
    return [
        Heartbeat(rank, f"node{rank}", 100 + rank, 5, "training", 9, 0.0, 0.0, probe_seconds)
        for rank, probe_seconds in enumerate(seconds)
    ]


def test_a_rank_slow_for_long_is_named_once_with_its_node() -> None:
    ranks = SlowRanks()
    said = [ranks.observe(beats(0.010, 0.010, 0.010, 0.010 * SLOW + 0.001)) for _ in range(PATIENCE + 2)]
    assert [len(lines) for lines in said] == [0] * (PATIENCE - 1) + [1, 0, 0]
    assert "rank 3 (node3, process 103) is slow" in said[PATIENCE - 1][0]


def test_a_passing_load_is_not_reported() -> None:
    ranks = SlowRanks()
    for _ in range(PATIENCE):
        assert ranks.observe(beats(0.01, 0.05, 0.01)) == []
        assert ranks.observe(beats(0.01, 0.01, 0.01)) == []


def test_ranks_that_have_not_been_probed_are_left_out() -> None:
    assert SlowRanks().observe(beats(None, None)) == []
