"""When something is due that happens every so many steps or tokens: a pure function of the step."""

from hierlm.phases.config import Duration
from hierlm.phases.timeline import Timeline


def is_due(every: Duration | None, *, completed: int, timeline: Timeline) -> bool:
    """Whether the update that made `completed` steps crossed a multiple of `every`."""
    if every is None or completed == 0:
        return False
    if every.steps is not None:
        return every.steps > 0 and completed % every.steps == 0
    assert every.tokens is not None
    if every.tokens == 0:
        return False
    before, after = timeline.tokens_after(completed - 1), timeline.tokens_after(completed)
    return before // every.tokens < after // every.tokens
