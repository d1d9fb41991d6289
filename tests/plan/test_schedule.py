"""What passes beside work is not waited for; the first or last piece always is."""

from dataclasses import replace

import pytest

from hierlm.plan.schedule import AS_BUILT, DataMessages, Schedule, as_built, exposed_seconds

BEHIND = Schedule(buckets_leave_early=False, gathers_ahead_forward=False, gathers_ahead_backward=False)
GRADIENTS = DataMessages(gradients=2.0, forward_gathers=0.0, backward_gathers=0.0, gathers_after_update=1.0, pieces=10)
ZERO_3 = DataMessages(gradients=2.0, forward_gathers=2.0, backward_gathers=2.0, gathers_after_update=0.0, pieces=10)


def waited(messages: DataMessages, schedule: Schedule = AS_BUILT, *, work: float, passes: int = 1) -> float:
    return exposed_seconds(messages, schedule, micro_batch_seconds=work, forward_share=1 / 3, passes=passes)


def test_without_overlap_everything_is_waited_for() -> None:
    assert waited(GRADIENTS, BEHIND, work=100.0) == GRADIENTS.total == 3.0
    assert waited(ZERO_3, BEHIND, work=100.0, passes=2) == pytest.approx(ZERO_3.total)


def test_of_gradients_beside_enough_work_the_last_bucket_is_left_and_what_follows_the_update() -> None:
    assert waited(GRADIENTS, work=100.0) == pytest.approx(2.0 / 10 + 1.0)


def test_no_more_is_hidden_than_there_is_work() -> None:
    assert waited(GRADIENTS, work=1.5) == pytest.approx(2.0 - 1.0 + 1.0)
    assert waited(GRADIENTS, work=0.0) == GRADIENTS.total


def test_zero_3_passes_beside_every_micro_batch() -> None:
    assert waited(ZERO_3, work=100.0, passes=4) == pytest.approx(ZERO_3.total / 10)
    backward_waits = replace(AS_BUILT, gathers_ahead_backward=False)
    assert waited(ZERO_3, backward_waits, work=100.0) == pytest.approx(2.0 / 10 + 2.0 / 10 + 2.0)


@pytest.mark.parametrize("work", [0.0, 0.1, 1.0, 10.0])
def test_more_overlap_is_never_slower(work: float) -> None:
    assert waited(ZERO_3, work=work) <= waited(ZERO_3, BEHIND, work=work) + 1e-12


def test_gradients_leave_early_where_nothing_is_added_to_them_after_the_backward_pass() -> None:
    assert [as_built(zero_stage=stage, in_pipeline=False).buckets_leave_early for stage in range(4)] == [
        False,
        True,
        True,
        True,
    ]
    assert not as_built(zero_stage=1, in_pipeline=True).buckets_leave_early
