"""The end of an attempt: the run's summary, and the marker that says there is nothing left to do."""

from hierlm.report.summary import RunStatus, write_summary
from hierlm.train.setup import Attempt
from hierlm.train.summary import summarise


def write_run_summary(attempt: Attempt, *, status: RunStatus) -> None:
    """Every rank calls it (the memory peak is the largest of all); the writer rank writes."""
    peak_bytes = attempt.engine.largest(attempt.memory.peak_bytes())
    if not attempt.is_writer:
        return
    attempt.lease.require_current()
    summary = summarise(
        attempt.run_dir,
        config=attempt.config,
        timeline=attempt.timeline,
        step=attempt.step,
        status=status,
        peak_bytes=peak_bytes,
    )
    write_summary(attempt.run_dir.summary, summary)


def mark_finished(attempt: Attempt) -> None:
    """After the last step, checkpoint, evaluation and summary."""
    if attempt.is_writer:
        attempt.lease.require_current()
        attempt.run_dir.finished.touch()
        attempt.console.say(f"finished: {attempt.run_dir.path} (step {attempt.timeline.num_steps})")
