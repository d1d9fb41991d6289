"""The training loop. What else happens after a step is a hook, not a branch here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from hierlm.nn.inputs import without_tokens
from hierlm.objectives.batch import Batch
from hierlm.parallel.before_update import Gradients
from hierlm.parallel.engine import Engine, StepResult
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
    """Steps first_step..until_step-1, unless every rank agrees to stop before; paused when later steps remain."""
    looks = [hook.before_update for hook in hooks if isinstance(hook, BeforeUpdate)]
    if looks:
        engine.call_before_update(looks)
    for step in range(first_step, until_step):
        if stop.agreed(engine.process.device):
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
        for hook in hooks:
            hook.after_step(completed)
    return "finished" if until_step == timeline.num_steps else "paused"
