"""What a step has come to is told while the next one runs, of every step once; a stop is agreed in the same way."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hierlm.config.load import load_config
from hierlm.objectives.batch import Batch
from tests.distributed.spawn import run_ranks

SMALL = [
    "model.num_layers=1",
    "phases.0.sequence_length=8",
    "phases.0.global_batch_size=4",
    "parallel.micro_batch_size=2",
]


class Notes:
    """A hook that notes what happens; `waits` are the steps it wants to know everything of at once."""

    def __init__(self, *, waits: set[int], ask_at: int | None, stop: Any) -> None:
        self.seen: list[tuple[str, int]] = []
        self._waits, self._ask_at, self._stop = waits, ask_at, stop

    def before_step(self) -> None:
        """Nothing to note."""

    def after_step(self, completed: Any) -> None:
        self.seen.append(("after", completed.step))
        if completed.step == self._ask_at:
            self._stop.signal_name = "SIGTERM"

    def on_measured(self, completed: Any, measured: Any) -> None:
        assert measured.loss > 0
        self.seen.append(("measured", completed.step))

    def waits_for(self, step: int) -> bool:
        return step in self._waits

    def on_stop(self, *, step: int) -> None:
        self.seen.append(("stop", step))


def trained(waits: set[int], ask_at: int | None, until_step: int) -> tuple[str, list[tuple[str, int]]]:
    """On one rank; rank 0 alone is asked to stop."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes
    from hierlm.phases.timeline import Timeline
    from hierlm.train.loop import train
    from hierlm.train.watch.signals import StopRequest

    process, stop = start_processes(), StopRequest()
    config = load_config(
        "configs/tiny/transformer.yaml", [*SMALL, f"parallel.data_parallel_degree={process.world_size}"]
    )
    engine = Engine(config, process=process)
    notes = Notes(waits=waits, ask_at=ask_at if process.rank == 0 else None, stop=stop)

    def batches() -> Iterator[Batch]:
        tokens = torch.arange(4 // process.world_size * 9).reshape(-1, 9)
        while True:
            yield Batch({"tokens": tokens[:, :-1]}, tokens[:, 1:])

    outcome = train(
        engine=engine,
        timeline=Timeline(config.phases),
        batches=batches(),
        first_step=0,
        until_step=until_step,
        hooks=[notes],
        stop=stop,
    )
    return outcome, notes.seen


@pytest.mark.distributed
def test_a_step_is_told_of_while_the_next_one_runs_and_the_last_one_too() -> None:
    [(outcome, seen)] = run_ranks(trained, 1, set(), None, 3)
    assert outcome == "paused"
    assert seen == [("after", 1), ("measured", 1), ("after", 2), ("measured", 2), ("after", 3), ("measured", 3)]


@pytest.mark.distributed
def test_all_ranks_stop_a_step_after_one_was_asked_and_know_of_every_step() -> None:
    answers = run_ranks(trained, 2, {2}, 3, 9)
    assert answers[0] == answers[1]
    outcome, seen = answers[0]
    assert outcome == "stopped"
    assert [step for what, step in seen if what == "measured"] == [1, 2, 3, 4, 5]
    assert seen[-1] == ("stop", 5)
    assert seen.index(("measured", 2)) == seen.index(("after", 2)) + 1  # at once where somebody waits for it
