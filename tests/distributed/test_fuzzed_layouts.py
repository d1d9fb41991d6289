"""Whatever is drawn trains as it does on one process: none wrong, none dead."""

from typing import Any

import pytest

from tests.distributed.fuzzing import case, restarts_alone
from tests.distributed.runs import differences, outcomes

QUICK = (6, 7, 8, 13)
NUM_CASES = 60


def numbers() -> list[Any]:
    marks = {number: pytest.mark.slow if number in QUICK else pytest.mark.matrix for number in range(NUM_CASES)}
    return [pytest.param(number, marks=[mark]) for number, mark in marks.items()]


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Any, Any]]:
    """(outcome, that of one process) of every chosen case, made together: processes start once for several."""
    items = [item for item in request.session.items if item.path == request.path and "made" in item.fixturenames]
    chosen = [item.callspec.params["number"] for item in items]
    runs = [case(number) for number in chosen]
    found = outcomes([*runs, *(run.alone for run in runs)], tmp_path_factory.mktemp("fuzzed"))
    return dict(zip(chosen, zip(found[: len(runs)], found[len(runs) :], strict=True), strict=True))


@pytest.mark.distributed
@pytest.mark.parametrize("number", numbers())
def test_a_drawn_case_equals_one_process(number: int, made: dict[int, tuple[Any, Any]]) -> None:
    wrong = differences(*made[number])
    assert not wrong, "\n".join([f"case {number}: {case(number)}", *wrong])


@pytest.mark.matrix
def test_the_cases_draw_what_they_are_to_draw() -> None:
    """In numbers that hold for these seeds; a change of what is drawn must not lose a kind unseen."""
    runs = [case(number) for number in range(NUM_CASES)]
    assert sum(run.layout.pp > 1 for run in runs) >= NUM_CASES // 3
    assert sum(run.layout.tp > 1 for run in runs) >= NUM_CASES // 6
    assert sum(restarts_alone(run) for run in runs) >= NUM_CASES // 4
    assert {run.layout.zero for run in runs} == {0, 1, 2, 3}
    for word in (
        "optimizer_state: reset",
        "layers[.]",
        "sequence_parallel=true",
        "recompute=full",
        "loss_chunk_tokens",
    ):
        assert any(word in str(run) for run in runs), word
