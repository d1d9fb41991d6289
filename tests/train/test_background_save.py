"""A save on a thread of its own commits like any other, is told of once it is over, and obeys the lease."""

import threading
from pathlib import Path
from typing import Any

import pytest

from hierlm.checkpoint.commit import SaveError
from hierlm.checkpoint.find import newest_good
from hierlm.checkpoint.layout import step_dir
from hierlm.checkpoint.leftovers import take_over
from hierlm.lease import TakenOverError, take
from hierlm.train.background_save import BackgroundSave
from tests.checkpoint.making import contents, on_every_rank, save


def beside(action: Any) -> BackgroundSave:
    return BackgroundSave(action, step=20, why="periodic", blocking_seconds=0.1)


def test_training_goes_on_while_it_is_written_and_the_result_is_a_checkpoint(tmp_path: Path) -> None:
    may_write = threading.Event()

    def slow() -> Any:
        assert may_write.wait(timeout=300)
        return save(tmp_path, 20)

    one = beside(slow)
    one.give_time(0.05)
    assert not one.is_done and not step_dir(tmp_path, 20).exists()
    may_write.set()
    assert one.result().path == step_dir(tmp_path, 20) and one.is_done
    found = newest_good(tmp_path, report=pytest.fail)
    assert found is not None and found.step == 20


def test_every_rank_gets_the_same_outcome(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the directory should be")

    def one_rank(team: Any) -> str:
        with pytest.raises(SaveError, match="untouched") as failed:
            beside(lambda: save(tmp_path / "checkpoints", 20, team=team)).result()
        return str(failed.value)

    assert len(set(on_every_rank(3, one_rank))) == 1


def test_one_that_is_overtaken_by_another_attempt_leaves_nothing(tmp_path: Path) -> None:
    checkpoints, may_go_on = tmp_path / "checkpoints", threading.Event()
    older = take(tmp_path / "leases")
    save(checkpoints, 10, lease=older)

    def late() -> Any:
        assert may_go_on.wait(timeout=300)
        return save(checkpoints, 20, lease=older)

    one = beside(late)
    newer = take(tmp_path / "leases")
    take_over(checkpoints, lease=newer)
    before = contents(checkpoints)
    may_go_on.set()
    with pytest.raises(TakenOverError):
        one.result()
    assert one.is_taken_over and contents(checkpoints) == before
