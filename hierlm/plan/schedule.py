"""When the messages of a step are under way: what of them is waited for, and what passes beside work.

This file is the one place that says what `hierlm.parallel` does when (`AS_BUILT`); how much is sent is
`hierlm.plan.communication`. Another system's habits are another `Schedule`.
"""

from dataclasses import dataclass, replace

FORWARD_SHARE = 1 / 3
"""Of a micro-batch's work, where nothing is computed again: the backward pass makes two products for each one."""


@dataclass(frozen=True)
class Schedule:
    """What is sent beside what. Messages between tensor-parallel ranks and stages wait for what they carry."""

    buckets_leave_early: bool  # gradients go out during the (last) backward pass, not behind it
    gathers_ahead_forward: bool  # ZeRO 3 fetches weights while layers before are passed, on the way there
    gathers_ahead_backward: bool  # and on the way back
    virtual_stages: int = 1  # stretches of layers each pipeline stage holds, interleaved


AS_BUILT = Schedule(buckets_leave_early=True, gathers_ahead_forward=True, gathers_ahead_backward=True)
"""Gradients leave in buckets, full ones first, from the last backward pass of a step; ZeRO 3's in every one, and its
weights are prefetched there and back. ZeRO 1 and 2 gather their weights behind the update, and wait."""


def as_built(*, zero_stage: int, in_pipeline: bool) -> Schedule:
    """`AS_BUILT`, less what a layout cannot have.

    Stage 0 sums gradients behind the last backward pass. So do pipelines: weights tied over stages are summed first.
    """
    return replace(AS_BUILT, buckets_leave_early=zero_stage > 0 and not in_pipeline)


@dataclass(frozen=True)
class DataMessages:
    """Seconds that the messages of a step between data-parallel ranks would take alone."""

    gradients: float
    forward_gathers: float  # of ZeRO 3, all micro-batches
    backward_gathers: float
    gathers_after_update: float  # of ZeRO 1 and 2
    pieces: int  # layers or buckets that each of them comes in: the last one has nothing to pass beside

    @property
    def total(self) -> float:
        return self.gradients + self.forward_gathers + self.backward_gathers + self.gathers_after_update


def exposed_seconds(
    messages: DataMessages, schedule: Schedule, *, micro_batch_seconds: float, forward_share: float, passes: int
) -> float:
    """What of them a step waits for; `passes` micro-batches with messages of their own, of so many seconds' work each.

    On the way back gathers and gradients share one way, and one window of work.
    """
    forward, backward = micro_batch_seconds * forward_share, micro_batch_seconds * (1 - forward_share)
    there = messages.forward_gathers / passes
    gathers, gradients = messages.backward_gathers / passes, messages.gradients / passes
    early_back = gathers * schedule.gathers_ahead_backward + gradients * schedule.buckets_leave_early
    waited = _beyond(there * schedule.gathers_ahead_forward, forward, messages.pieces)
    waited += there * (not schedule.gathers_ahead_forward)
    waited += _beyond(early_back, backward, messages.pieces) + gathers + gradients - early_back
    return passes * waited + messages.gathers_after_update


def _beyond(seconds: float, window: float, pieces: int) -> float:
    """What does not pass beside `window` of work: the first or last piece never does."""
    return max(seconds - window, seconds / pieces)
