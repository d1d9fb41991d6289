"""A diagnosis names the ranks that hold up the others, and says when there are none."""

from pathlib import Path

from hierlm.train.watch.heartbeat import HeartbeatWriter, diagnosis
from hierlm.train.watch.node_beats import Heartbeat, node_folder


def beat(rank: int, step: int, activity: str, *, heard: float = 100.0) -> Heartbeat:
    marks = 10 * step + 5 * (activity == "training")
    return Heartbeat(rank, f"node{rank // 2}", 40 + rank, step, activity, marks, 30.0, heard)


def of(*beats: Heartbeat) -> str:
    return diagnosis(beats, now=101.0, silent_seconds=6.0)


def test_the_rank_that_waits_for_data_holds_up_those_that_train() -> None:
    said = of(beat(0, 7, "training"), beat(1, 7, "training"), beat(2, 7, "waiting for data"))
    assert said == "rank 2 (node1, process 42) is behind: waiting for data after step 7 for 30 s"


def test_a_rank_that_is_not_heard_any_more_is_named_as_silent() -> None:
    said = of(beat(0, 7, "training"), beat(1, 7, "training", heard=40.0))
    assert said == "rank 1 (node0, process 41) does not answer, last heard 61 s ago training after step 7"


def test_when_all_are_at_the_same_place_nobody_is_blamed() -> None:
    assert of(beat(0, 7, "training"), beat(1, 7, "training")) == "all 2 ranks are training after step 7"


def test_the_last_word_of_a_rank_can_be_read_while_it_lives_and_is_gone_when_it_ends(tmp_path: Path) -> None:
    node = node_folder(run=str(tmp_path), attempt="of this test", node=0)
    writer = HeartbeatWriter(
        tmp_path,
        node_folder=node,
        rank=3,
        hang_after_seconds=None,
        on_hang=lambda said: None,
        before_exit=lambda: None,
        beat_seconds=0.01,
    )
    writer.mark("training", step=4)
    while not (beats := writer.heard()) or beats[0].step != 4:
        pass
    assert (beats[0].rank, beats[0].activity) == (3, "training")
    writer.stop()
    assert writer.heard() == [] and not node.exists()
