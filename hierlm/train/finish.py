"""The end of an attempt: the run's summary, and the marker that says there is nothing left to do."""

import torch.distributed as dist

from hierlm.errors import LostRunError
from hierlm.report.summary import RunStatus, write_summary
from hierlm.tracking.jsonl import read_records
from hierlm.train.record.summary import last_evaluation, summarise
from hierlm.train.setup import Attempt


def write_run_summary(attempt: Attempt, *, status: RunStatus) -> None:
    """Every rank calls it (the memory peak is the largest of all); the writer rank writes."""
    peak_bytes = attempt.base.engine.largest(attempt.base.memory.peak_bytes())
    if not attempt.is_writer:
        return
    attempt.lease.require_current()
    summary = summarise(
        attempt.base.run_dir,
        config=attempt.base.config,
        timeline=attempt.base.timeline,
        step=attempt.step,
        status=status,
        peak_bytes=peak_bytes,
    )
    write_summary(attempt.base.run_dir.summary, summary)


def require_finite_end(attempt: Attempt) -> None:
    """LostRunError on every rank when the last evaluation gave no finite loss: such a run is not finished."""
    is_finite: list[bool] = [True]
    if attempt.is_writer:
        last = last_evaluation(read_records(attempt.base.run_dir.metrics), "valid")
        is_finite = [last is None or last.get("loss") is not None]
    dist.broadcast_object_list(is_finite, src=0)
    if not is_finite[0]:
        raise LostRunError(
            f"step {attempt.step}: the loss on the valid split is not finite: the run is not finished; "
            "train it again under another name, with a lower learning rate or in fp32"
        )


def mark_finished(attempt: Attempt) -> None:
    """After the last step, checkpoint, evaluation and summary."""
    if attempt.is_writer:
        attempt.lease.require_current()
        attempt.base.run_dir.finished.touch()
        attempt.base.console.say(f"finished: {attempt.base.run_dir.path} (step {attempt.base.timeline.num_steps})")
