"""`Timeline.at(step)`: everything that depends on time, as a pure function of the number of completed steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hierlm.phases.config import PhaseConfig
from hierlm.phases.learning_rate import Curve
from hierlm.phases.span import Span


class WeightChange(NamedTuple):
    """From row `first_sample` of a data pass on, the sources are mixed by these weights; None: by their own."""

    first_sample: int
    weights: tuple[float, ...] | None


@dataclass(frozen=True)
class Moment:
    """What holds for the update that follows `step` completed updates."""

    step: int
    phase_index: int
    phase: PhaseConfig
    step_in_phase: int
    learning_rate: float
    tokens_seen: int  # before this update, over all ranks
    first_sample: int  # rows consumed in this data pass: the data position of row 0 of this update
    data_pass: int  # how often the rows have been dealt anew: keys their order
    data_weights: tuple[WeightChange, ...]  # of this data pass so far

    @property
    def starts_phase(self) -> bool:
        return self.step_in_phase == 0


class Timeline:
    """Phases laid end to end; nothing is advanced, so resuming needs no state.

    Rows are dealt anew when their length changes (not when the weights of their sources do), and with contiguous lanes
    (a model with recurrent memory) also when the number of lanes does, which is the global batch size.
    """

    def __init__(self, phases: Sequence[PhaseConfig], *, contiguous_lanes: bool = False) -> None:
        if not phases:
            raise ValueError("a timeline needs at least one phase")
        self.phases = tuple(phases)
        self.contiguous_lanes = contiguous_lanes
        self._span = Span(self.phases)
        self._starts = self._span.starts
        self._curves = {first: Curve(span) for first, span in curve_spans(self.phases).items()}

    @property
    def num_steps(self) -> int:
        return self._span.num_steps

    @property
    def num_tokens(self) -> int:
        return self._span.num_tokens

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The steps at which a phase other than the first begins."""
        return tuple(self._starts[1:-1])

    def end_of(self, phase: str) -> int:
        """Completed steps at the end of the phase of this name; ValueError names those there are."""
        names = [each.name for each in self.phases]
        if phase not in names:
            raise ValueError(f"no phase {phase!r}, there are: {', '.join(names)}")
        return self._starts[names.index(phase) + 1]

    def at(self, step: int) -> Moment:
        """The moment of the update after `step` completed ones; 0 <= step < num_steps."""
        if not 0 <= step < self.num_steps:
            raise ValueError(f"step {step} is outside the timeline of {self.num_steps} steps")
        index = self._span.phase_at(step)
        phase, inside = self.phases[index], step - self._starts[index]
        data_pass, first_sample, data_weights = self._data_position(index, inside)
        return Moment(
            step=step,
            phase_index=index,
            phase=phase,
            step_in_phase=inside,
            learning_rate=self._learning_rate(index, step),
            tokens_seen=self._span.tokens_after(step),
            first_sample=first_sample,
            data_pass=data_pass,
            data_weights=data_weights,
        )

    def tokens_after(self, step: int) -> int:
        """Training tokens consumed by the first `step` updates."""
        return self._span.tokens_after(step)

    def _data_position(self, index: int, inside: int) -> tuple[int, int, tuple[WeightChange, ...]]:
        """(data_pass, first_sample, data_weights): rows are counted afresh in every pass."""
        data_pass, samples, changes = 0, 0, list[WeightChange]()
        for before, phase in enumerate(self.phases[: index + 1]):
            if before and self._row_shape(phase) != self._row_shape(self.phases[before - 1]):
                data_pass, samples, changes = data_pass + 1, 0, []
            steps = inside if before == index else phase.num_steps
            if phase.num_steps and (not changes or changes[-1].weights != phase.data_weights):
                changes.append(WeightChange(samples, phase.data_weights))
            samples += steps * phase.global_batch_size
        return data_pass, samples, tuple(changes)

    def _row_shape(self, phase: PhaseConfig) -> tuple[int, ...]:
        lanes = (phase.global_batch_size,) if self.contiguous_lanes else ()
        return (phase.sequence_length, *lanes)

    def _learning_rate(self, index: int, step: int) -> float:
        first = max(begins for begins in self._curves if begins <= index)
        return self._curves[first].rate(step - self._starts[first])


def curve_spans(phases: Sequence[PhaseConfig]) -> dict[int, Span]:
    """By the index of the phase that begins it, the span of each curve: up to the phase that begins the next one."""
    firsts = [index for index, phase in enumerate(phases) if index == 0 or phase.restarts_learning_rate]
    return {first: Span(phases[first:end]) for first, end in zip(firsts, [*firsts[1:], len(phases)], strict=True)}
