"""The training loop. What else happens after a step is a hook, not a branch here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from hierlm.nn.inputs import without_tokens
from hierlm.objectives.batch import Batch
from hierlm.parallel.before_update import Gradients
from hierlm.parallel.engine import Engine, Measured, SentStep, StepResult
from hierlm.phases.timeline import Moment, Timeline
from hierlm.train.watch.signals import StopRequest

Outcome = Literal["finished", "paused", "stopped"]


@dataclass(frozen=True)
class Completed:
    """One finished optimizer step, as the hooks see it."""

    step: int  # completed optimizer steps, this one included
    moment: Moment
    result: StepResult
    is_last: bool


class Hook(Protocol):
    """Something that happens around steps; called on every rank, in the order of the list."""

    def before_step(self) -> None:
        """The loop turns to the next step."""

    def after_step(self, completed: Completed) -> None:
        """A step is done."""

    def on_stop(self, *, step: int) -> None:
        """All ranks have agreed to stop after `step` completed steps."""


@runtime_checkable
class Hears(Protocol):
    """A hook that is told what a step has come to: its numbers arrive while the next one runs."""

    def on_measured(self, completed: Completed, measured: Measured) -> None:
        """After `after_step` of the same step; on every rank, of every step, in their order."""


@runtime_checkable
class Waits(Protocol):
    """A hook that looks at the state after some steps, of which everything is to be known before."""

    def waits_for(self, step: int) -> bool:
        """Whether its `after_step` does so after `step` completed steps; the same on every rank."""


@runtime_checkable
class BeforeUpdate(Protocol):
    """A hook that also looks at gradients: between the last backward pass of a step and its update."""

    def before_update(self, gradients: Gradients, moment: Moment) -> None:
        """The gradients are whole, not yet clipped, and stay as they are."""


def train(
    *,
    engine: Engine,
    timeline: Timeline,
    batches: Iterator[Batch],
    first_step: int,
    until_step: int,
    hooks: Sequence[Hook],
    stop: StopRequest,
) -> Outcome:
    """Steps first_step..until_step-1, unless every rank agrees to stop before; paused when later steps remain.

    What ranks say of a step, and of a request to stop, is sent when the step is started and read when the next one is:
    nobody waits for a device that has nothing else to do. So a run stops a step later than it was asked to.
    """
    looks = [hook.before_update for hook in hooks if isinstance(hook, BeforeUpdate)]
    if looks:
        engine.call_before_update(looks)
    unread: list[tuple[Completed, SentStep]] = []
    stop.agreed(engine.process.device)
    for step in range(first_step, until_step):
        if stop.is_agreed:
            _tell(hooks, unread, stop=stop)
            for hook in hooks:
                hook.on_stop(step=step)
            return "stopped"
        for hook in hooks:
            hook.before_step()
        batch = next(batches)
        moment = timeline.at(step)
        result = engine.train_step(
            batch.tokens,
            batch.targets,
            moment=moment,
            starts=batch.starts,
            inputs=without_tokens(batch.inputs),
            weights=batch.weights,
        )
        completed = Completed(step + 1, moment, result, is_last=step + 1 == timeline.num_steps)
        sent = engine.send(result, flags=stop.flags())
        _tell(hooks, unread, stop=stop)
        is_end = step + 1 == until_step
        known = sent.read() if is_end or any(h.waits_for(step + 1) for h in hooks if isinstance(h, Waits)) else None
        if known is None:
            unread.append((completed, sent))
        else:
            stop.heard(known.flags)  # of damage before it is saved
        for hook in hooks:
            hook.after_step(completed)
            if known is not None and isinstance(hook, Hears):
                hook.on_measured(completed, known)
    return "finished" if until_step == timeline.num_steps else "paused"


def _tell(hooks: Sequence[Hook], unread: list[tuple[Completed, SentStep]], *, stop: StopRequest) -> None:
    """What has been sent and not been read."""
    for completed, sent in unread:
        measured = sent.read()
        for hook in hooks:
            if isinstance(hook, Hears):
                hook.on_measured(completed, measured)
        stop.heard(measured.flags)
    unread.clear()
