"""A node says one word to the others for all its ranks, seldom; who is well says it, and all are heard."""

from pathlib import Path

import pytest

from hierlm.train.watch import node_beats
from hierlm.train.watch.node_beats import Heartbeat, NodeBeats, node_folder
from hierlm.train.watch.slow_ranks import PROBE_EVERY_SECONDS
from tests.checkpoint.counting import touches_counted

BEAT = 2.0
RANKS_OF_A_NODE = 4


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(node_beats.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def ranks_of(num_nodes: int, root: Path) -> list[NodeBeats]:
    (root / "shared").mkdir()
    made = []
    for rank in range(num_nodes * RANKS_OF_A_NODE):
        local = root / f"node-{rank // RANKS_OF_A_NODE}"
        local.mkdir(exist_ok=True)
        how = {"beat_seconds": BEAT, "tell_seconds": node_beats.TELL_SECONDS}
        made.append(NodeBeats(local, root / "shared", rank=rank, **how))
    return made


def word(rank: int, now: float) -> Heartbeat:
    return Heartbeat(rank, f"node{rank // RANKS_OF_A_NODE}", 100 + rank, 7, "training", 70, 0.0, now)


def beat(ranks: list[NodeBeats], clock: Clock, *, seconds: float, stopped: tuple[int, ...] = ()) -> None:
    until = clock.now + seconds
    while clock.now < until:
        for rank, beats in enumerate(ranks):
            if rank not in stopped:
                beats.say(word(rank, clock.now))
        clock.now += BEAT


@pytest.mark.parametrize("num_nodes", [2, 4])
def test_a_node_costs_the_shared_file_system_one_operation_in_ten_seconds(num_nodes, clock, tmp_path):
    ranks, minutes = ranks_of(num_nodes, tmp_path), 1
    with touches_counted(tmp_path / "shared", lambda: 0) as found:
        for _ in range(minutes):
            beat(ranks, clock, seconds=PROBE_EVERY_SECONDS)
            assert len(ranks[0].heard()) == len(ranks)  # as rank 0 does to find slow ones
    assert 0 < sum(found.values()) <= num_nodes * minutes * 60 / 10, found
    assert len(list((tmp_path / "shared").iterdir())) == num_nodes


def test_when_the_rank_that_tells_is_stopped_another_one_does_and_it_is_heard_of_as_before(clock, tmp_path):
    ranks = ranks_of(2, tmp_path)
    beat(ranks, clock, seconds=60)
    stopped_at = clock.now
    beat(ranks, clock, seconds=60, stopped=(4,))
    assert ranks[5].is_teller and not ranks[6].is_teller
    last = {one.rank: one.time for one in ranks[0].heard()}
    assert sorted(last) == list(range(8))
    assert last[4] < stopped_at
    assert all(last[rank] > stopped_at + 60 - 2 * node_beats.TELL_SECONDS for rank in (5, 6, 7))


def test_processes_that_share_no_memory_are_all_heard(clock, tmp_path):
    (tmp_path / "shared").mkdir()
    how = {"beat_seconds": BEAT, "tell_seconds": node_beats.TELL_SECONDS}
    ranks = []
    for rank in range(3):
        (tmp_path / f"own-{rank}").mkdir()
        ranks.append(NodeBeats(tmp_path / f"own-{rank}", tmp_path / "shared", rank=rank, **how))
    beat(ranks, clock, seconds=30)
    assert [one.rank for one in ranks[1].heard()] == [0, 1, 2]
    assert ranks[0].knows_other_nodes()


def test_the_folder_of_a_node_is_this_users_alone_and_what_a_killed_attempt_left_goes(tmp_path):
    killed = node_folder(run=str(tmp_path), attempt="first", node=0)
    other_node = node_folder(run=str(tmp_path), attempt="first", node=1)
    try:
        again = node_folder(run=str(tmp_path), attempt="second", node=0)
        assert not killed.exists() and other_node.exists()
        assert again.stat().st_mode & 0o777 == 0o700
        again.rmdir()
        again.symlink_to(tmp_path)  # somebody else's doing
        refuge = node_folder(run=str(tmp_path), attempt="second", node=0)
        assert refuge != again and list(tmp_path.iterdir()) == []
        refuge.rmdir()
        again.unlink()
    finally:
        other_node.rmdir()
