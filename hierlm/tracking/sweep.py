"""The parent run of a sweep: made by the first member that starts, closed by the last one that ends."""

from collections.abc import Sequence

from hierlm.tracking.backend import Backend, Status
from hierlm.tracking.identity import RunIdentity

_ENDED: tuple[Status, ...] = ("FAILED", "KILLED", "FINISHED")
"""The worst first: what the parent of members that ended differently is."""


def sweep_parent(backend: Backend, identity: RunIdentity) -> str | None:
    """The id of the parent; None for a run of no sweep."""
    if identity.sweep is None:
        return None
    return backend.find_or_create_run(
        name=identity.sweep, tags=identity.sweep_tags, parent=None, started_ms=identity.started_ms
    )


def set_sweep_status(backend: Backend, identity: RunIdentity) -> None:
    """To be called when the status of a member was set: two requests. Of two members that end at the same moment the
    later one sees both."""
    parent = sweep_parent(backend, identity)
    if parent is not None:
        backend.set_status(parent, sweep_status(backend.statuses_below(parent), size=identity.sweep_size))


def sweep_status(members: Sequence[Status], *, size: int | None) -> Status:
    """RUNNING until all members have ended, those too that have not begun; then the worst of their ends."""
    has_all = len(members) >= (size or 1)
    if not has_all or any(status not in _ENDED for status in members):
        return "RUNNING"
    return next(status for status in _ENDED if status in members)
