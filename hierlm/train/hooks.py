"""What happens around steps: logging, evaluation, checkpoints. A new concern is a new hook."""

from collections.abc import Callable
from time import perf_counter, time
from typing import Any

from hierlm.checkpoint.manifest import Why
from hierlm.config.run_config import RunConfig
from hierlm.parallel.engine import Measured
from hierlm.phases.timeline import Moment, Timeline
from hierlm.train.cadence import is_due
from hierlm.train.checkpointing import Checkpointer
from hierlm.train.course import Course
from hierlm.train.loop import Completed
from hierlm.train.mixture_evaluation import MixtureEvaluation
from hierlm.train.record.console import evaluation_line, step_line
from hierlm.train.record.device_memory import DeviceMemory
from hierlm.train.record.throughput import IntervalTimer, Peak


def is_logged(completed: int, *, config: RunConfig[Any], timeline: Timeline) -> bool:
    """Whether the step that makes `completed` steps is, whatever comes of it."""
    is_end = completed in (1, timeline.num_steps)
    return is_end or is_due(config.train.log_every, completed=completed, timeline=timeline)


class LogHook:
    """One record and one console line at the first step, every `log_every`, the last step and one that is skipped."""

    def __init__(
        self,
        course: Course,
        *,
        memory: DeviceMemory,
        peak: Peak,
        flops_per_token: Callable[[int], float],
        units_of: Callable[[float, Moment], dict[str, float]],
        wait_seconds: Callable[[], float],
        seen_before_update: Callable[[int], dict[str, Any]],
    ) -> None:
        """`seen_before_update`: more fields of the record of a step, by what was seen of its gradients."""
        self._config, self._timeline = course.config, course.timeline
        self._recorder, self._console, self._memory, self._peak = course.recorder, course.console, memory, peak
        self._flops_per_token, self._units_of, self._wait_seconds = flops_per_token, units_of, wait_seconds
        self._seen_before_update = seen_before_update
        self._timer = IntervalTimer()

    def before_step(self) -> None:
        self._timer.start_step()

    def after_step(self, completed: Completed) -> None:
        phase = completed.moment.phase
        self._timer.end_step(tokens=phase.tokens_per_step, wait_seconds=self._wait_seconds())
        self._console.advance_bar(completed=completed.step, description=phase.name)

    def on_measured(self, completed: Completed, measured: Measured) -> None:
        if measured.is_skipped or is_logged(completed.step, config=self._config, timeline=self._timeline):
            record = self._record(completed, measured)
            self._recorder.record(record)
            self._console.say(step_line(record, num_steps=self._timeline.num_steps, eta_seconds=self._eta(record)))

    def on_stop(self, *, step: int) -> None:
        """Nothing is pending: what was sent has been read."""

    def _record(self, completed: Completed, measured: Measured) -> dict[str, Any]:
        moment, interval = completed.moment, self._timer.take()
        rate = interval.tokens_per_second
        flops = self._flops_per_token(moment.phase.sequence_length) * rate  # without recompute, as MFU has it
        return {
            "kind": "train",
            "step": completed.step,
            "phase": moment.phase.name,
            "tokens_seen": moment.tokens_seen + moment.phase.tokens_per_step,
            "loss": measured.loss,
            **self._units_of(measured.loss, moment),
            **measured.reported,
            "learning_rate": moment.learning_rate,
            "grad_norm": measured.grad_norm,
            **self._seen_before_update(completed.step),
            "skipped_steps": measured.skipped.total,
            "tokens_per_second": rate,
            "step_seconds": interval.step_seconds,
            "data_wait_fraction": interval.data_wait_fraction,
            "device_memory_bytes": self._memory.peak_bytes(),
            "share_of_peak": flops / (self._peak.flops_per_second * self._config.parallel.world_size),
            "peak_kind": self._peak.kind,
            "time": time(),
        }

    def _eta(self, record: dict[str, Any]) -> float:
        left = self._timeline.num_tokens - int(record["tokens_seen"])
        return left / max(float(record["tokens_per_second"]), 1e-9)


class EvaluationHook:
    """The valid splits every `eval_every` and after the last step; one cut short by a stop is made up on resume."""

    def __init__(self, course: Course, *, evaluation: MixtureEvaluation) -> None:
        self._config, self._timeline = course.config, course.timeline
        self._evaluation, self._recorder, self._console = evaluation, course.recorder, course.console

    def before_step(self) -> None:
        """Nothing to do."""

    def after_step(self, completed: Completed) -> None:
        if self.is_due(completed.step):
            self.evaluate(completed.step)

    def waits_for(self, step: int) -> bool:
        return self.is_due(step)

    def on_stop(self, *, step: int) -> None:
        """An evaluation cut short is seen missing from the metrics on resume."""

    def is_due(self, step: int) -> bool:
        """Whether the state after `step` steps is evaluated."""
        if step == self._timeline.num_steps:
            return True
        return is_due(self._config.train.eval_every, completed=step, timeline=self._timeline)

    def evaluate(self, step: int) -> None:
        """Evaluate now and record it, unless stopped on the way; at 0 what was begun with."""
        started = perf_counter()
        phase = self._timeline.at(max(step - 1, 0)).phase
        measured = self._evaluation.run(
            weights=self._config.source_weights(phase),
            sequence_length=phase.sequence_length,
            max_rows=self._config.train.eval_rows,
        )
        if measured is None:
            return
        took = {"eval_seconds": perf_counter() - started, "time": time()}
        record = {"kind": "eval", "step": step, "phase": phase.name, "split": "valid", **measured, **took}
        self._recorder.record(record)
        self._console.say(evaluation_line(record))


class CheckpointHook:
    """Every `checkpoint.every` and `keep_every`, at each phase's end, after the last step, and on a stop request."""

    def __init__(self, *, config: RunConfig[Any], timeline: Timeline, checkpointer: Checkpointer) -> None:
        self._config, self._timeline, self._checkpointer = config, timeline, checkpointer

    def before_step(self) -> None:
        self._checkpointer.poll()

    def after_step(self, completed: Completed) -> None:
        if (why := self._reason(completed.step)) is not None:
            self._checkpointer.save(completed.step, why=why)

    def waits_for(self, step: int) -> bool:
        return self._reason(step) is not None

    def on_stop(self, *, step: int) -> None:
        self._checkpointer.save(step, why="stop")

    def _reason(self, step: int) -> Why | None:
        if step == self._timeline.num_steps:
            return "final"
        if step in self._timeline.boundaries:
            return "phase_boundary"
        return "periodic" if self._is_due(step) else None

    def _is_due(self, step: int) -> bool:
        settings = self._config.checkpoint
        kept = settings.keep_every is not None and step % settings.keep_every.steps == 0
        return kept or is_due(settings.every, completed=step, timeline=self._timeline)
