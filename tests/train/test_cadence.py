"""Something is due when a multiple of its duration has just been crossed."""

from hierlm.phases.config import Duration, LearningRateConfig, PhaseConfig
from hierlm.phases.timeline import Timeline
from hierlm.train.cadence import is_due


def timeline(steps: int = 10, sequence_length: int = 4, batch: int = 2) -> Timeline:
    rate = LearningRateConfig(peak=1.0)
    phase = PhaseConfig(
        name="p",
        duration=Duration(steps=steps),
        sequence_length=sequence_length,
        global_batch_size=batch,
        learning_rate=rate,
    )
    return Timeline([phase])


def due_steps(every: Duration | None, line: Timeline) -> list[int]:
    return [s for s in range(line.num_steps + 1) if is_due(every, completed=s, timeline=line)]


def test_steps_are_due_at_multiples_and_never_before_the_first_step() -> None:
    assert due_steps(Duration(steps=4), timeline()) == [4, 8]


def test_tokens_are_due_when_a_multiple_is_crossed() -> None:
    assert due_steps(Duration(tokens=20), timeline()) == [3, 5, 8, 10]  # 8 tokens a step: 24, 40, 64, 80


def test_every_crossing_is_due_once() -> None:
    line = timeline(steps=50)
    assert len(due_steps(Duration(tokens=24), line)) == line.num_tokens // 24


def test_nothing_is_due_without_a_duration() -> None:
    assert due_steps(None, timeline()) == []
    assert due_steps(Duration(steps=0), timeline()) == []
