"""A promise that is exceeded fails the bench, and so does one marked as not yet kept that is."""

import pytest

from tests.benchmarks.bench_collectives import Case, Kind, Promise, Step, data_values, table
from tests.benchmarks.messages import Message
from tests.distributed.runs import Layout

GATHER = Message("all_gather", (0, 1), (60, 40), 4, 0.0)
SUM = Message("all_reduce", (0, 1), (100,), 2, 0.0)
STEP = Step(100, {Kind("data", "all_gather"): [GATHER], Kind("data", "all_reduce"): [SUM], Kind("all", "send"): [SUM]})


@pytest.mark.parametrize(
    ("bound", "not_yet", "is_well", "word"),
    [
        (3.0, "", True, "holds"),
        (2.9, "", False, "MISSED"),
        (2.9, "some day", True, "not yet: some day"),
        (3.0, "some day", False, "holds, though marked as not yet"),
    ],
)
def test_a_promise_is_judged_by_the_rank_that_sends_most(bound: float, not_yet: str, is_well: bool, word: str) -> None:
    case = Case(Layout(2, 1, 1), [Promise("values over dp, in n", data_values, bound, not_yet)])
    text, found = table(case, [Step(100, {}), STEP])
    assert found is is_well
    assert word in text.splitlines()[-1] and "3.000" in text.splitlines()[-1]
    assert "all_gather         1 messages         400 bytes    1.000 n" in text
    assert "all_reduce         1 messages         400 bytes    2.000 n" in text
