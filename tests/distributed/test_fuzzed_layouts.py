"""Whatever is drawn trains as it does on one process: none wrong, none dead."""

from typing import Any

import pytest

from tests.distributed.fuzzing import case, restarts_alone
from tests.distributed.runs import RELATIVE, Run, Together, compared, differences

QUICK = (8, 19)
"""Lanes whose segments end in other places; ZeRO 3 with selective recompute and dropout. Tied weights over stages and
shapes between them that are drawn, cases 6 and 37, have files of their own."""
NUM_CASES = 60
ROUNDED = {"lmu": 1e-4, "hm_lstm": 1e-4}
"""Of a first moment. Gradients that are what little is left of terms that cancel: on one process, micro-batches of 1, 2
and 4 rows move the pool of the seven LMU layers of case 33 by 2e-5."""


def numbers() -> list[Any]:
    marks = {number: pytest.mark.slow if number in QUICK else pytest.mark.matrix for number in range(NUM_CASES)}
    return [pytest.param(number, marks=[mark]) for number, mark in marks.items()]


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Together:
    """The outcome of every chosen case, and that of one process."""
    runs: dict[Any, Run] = {}
    for given in compared(request):
        run = case(given["number"])
        runs |= {(given["number"], "alone"): run.alone, given["number"]: run}
    return Together(runs, tmp_path_factory.mktemp("fuzzed"))


@pytest.mark.distributed
@pytest.mark.parametrize("number", numbers())
def test_a_drawn_case_equals_one_process(number: int, made: Together) -> None:
    alone, found = made[number, "alone"], made[number]
    wrong = differences(found, alone, moments_within=ROUNDED.get(case(number).arch, RELATIVE))
    assert not wrong, "\n".join([f"case {number}: {case(number)}", *wrong])


@pytest.mark.matrix
def test_the_cases_draw_what_they_are_to_draw() -> None:
    """In numbers that hold for these seeds; a change of what is drawn must not lose a kind unseen."""
    runs = [case(number) for number in range(NUM_CASES)]
    assert sum(run.layout.pp > 1 for run in runs) >= NUM_CASES // 3
    assert sum(run.layout.tp > 1 for run in runs) >= NUM_CASES // 6
    assert sum(restarts_alone(run) for run in runs) >= NUM_CASES // 4
    assert sum("dropout=0." in str(run) for run in runs) >= NUM_CASES // 4
    assert sum(run.layout.zero == 3 and "recompute=selective" in str(run) for run in runs) >= 3
    assert {run.layout.zero for run in runs} == {0, 1, 2, 3}
    for word in (
        "optimizer_state: reset",
        "layers[.]",
        "sequence_parallel=true",
        "recompute=full",
        "loss_chunk_tokens",
    ):
        assert any(word in str(run) for run in runs), word
