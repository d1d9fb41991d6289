"""Three kinds of parallelism at a time on sixteen real processes, and a resume on other degrees of all three."""

import os
from pathlib import Path

import pytest

from tests.checkpoint.layouts import GOES_ON_FOR, SAVED_AFTER, overrides, steps_made
from tests.distributed.spawn import run_ranks

ARCH = "transformer"
RELATIVE = 1e-5
TRAINED = {"dp": 4, "tp": 2, "pp": 2, "zero": 1}
RESUMED = {"dp": 2, "pp": 4, "zero": 1}
MORE = ("model.num_layers=6", "model.hidden_dim=32", "model.num_heads=4", "model.ffn_dim=64")


def settings(layout: dict[str, int]) -> list[str]:
    return overrides(**layout, more=MORE)


def committed(words: list[str], checkpoints: str) -> list[float]:
    """On every rank: some steps, a committed checkpoint, and the losses of the steps after it."""
    from hierlm.checkpoint.commit import save_checkpoint
    from hierlm.durable import FileWriter
    from hierlm.parallel.messages import team_of
    from tests.checkpoint.layouts import small_engine
    from tests.checkpoint.making import facts

    engine = small_engine(ARCH, words)
    steps_made(engine, range(SAVED_AFTER))

    def write(partial: Path) -> dict[str, object]:
        files = FileWriter(partial)
        engine.save(partial, client_state={"iteration": SAVED_AFTER}, open_file=files.open)
        return files.records

    save_checkpoint(Path(checkpoints), facts=facts(SAVED_AFTER), write=write, team=team_of(), keep=1)
    return steps_made(engine, range(SAVED_AFTER, SAVED_AFTER + GOES_ON_FOR))


def gone_on(words: list[str], checkpoints: str, *, is_converted: bool) -> list[float]:
    """On every rank: the losses of the same steps after the newest good checkpoint was loaded."""
    from hierlm.checkpoint.find import newest_good
    from hierlm.checkpoint.universal import universal_of
    from hierlm.parallel.messages import team_of
    from tests.checkpoint.layouts import small_engine

    engine, team = small_engine(ARCH, words), team_of()
    found = newest_good(Path(checkpoints), report=print, team=team)
    assert found is not None and found.step == SAVED_AFTER
    if is_converted:
        engine.load_converted(universal_of(found, progress=lambda done, of: None, team=team))
    else:
        engine.load(found.path)
    return steps_made(engine, range(SAVED_AFTER, SAVED_AFTER + GOES_ON_FOR))


def gone_on_as_it_was(words: list[str], checkpoints: str) -> list[float]:
    return gone_on(words, checkpoints, is_converted=False)


def gone_on_elsewhere(words: list[str], checkpoints: str) -> list[float]:
    return gone_on(words, checkpoints, is_converted=True)


@pytest.mark.distributed
@pytest.mark.matrix
def test_a_run_of_sixteen_ranks_goes_on_as_it_was_and_on_other_degrees(tmp_path: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    folder, seconds = str(tmp_path / "checkpoints"), 1500
    losses = run_ranks(committed, 16, settings(TRAINED), folder, timeout_seconds=seconds)
    assert all(of_rank == losses[0] for of_rank in losses)
    again = run_ranks(gone_on_as_it_was, 16, settings(TRAINED), folder, timeout_seconds=seconds)
    assert again == losses  # bit for bit
    other = run_ranks(gone_on_elsewhere, 8, settings(RESUMED), folder, timeout_seconds=seconds)
    assert other[0] == pytest.approx(losses[0], rel=RELATIVE, abs=0)
