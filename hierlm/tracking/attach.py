"""Find the run of a run directory at the tracker, or make it, with its parameters and the child runs of its phases."""

from hierlm.tracking.backend import Backend, Status
from hierlm.tracking.identity import RunIdentity
from hierlm.tracking.state import StateFile
from hierlm.tracking.sweep import set_sweep_status, sweep_parent


def attach(backend: Backend, file: StateFile, identity: RunIdentity) -> None:
    """Afterwards the state names one live run, knows which steps it has, and the run carries this attempt's params."""
    known = _known_runs(backend, file, identity)
    run_id = file.state.run_id
    if not known:
        parent = sweep_parent(backend, identity)
        run_id = backend.find_or_create_run(
            name=identity.name, tags=identity.tags, parent=parent, started_ms=identity.started_ms
        )
    if not known or file.state.sending:
        _ask_what_arrived(backend, file, run_id=run_id)
    _log_params(backend, run_id, identity)
    for dataset in identity.datasets:
        backend.log_dataset(run_id, dataset)
    if identity.attempt is not None and file.state.status != "RUNNING":
        set_status(backend, file, identity, status="RUNNING")


def set_status(backend: Backend, file: StateFile, identity: RunIdentity, *, status: Status) -> None:
    """Of the run and of its newest phase; then of the sweep it belongs to."""
    for run_id in (*list(file.state.phase_runs.values())[-1:], file.state.run_id):
        backend.set_status(run_id, status)
    set_sweep_status(backend, identity)
    with file.change() as state:
        state.status = status


def phase_run(backend: Backend, file: StateFile, identity: RunIdentity, *, phase: str, started_ms: int) -> str:
    """The child run of a phase; the one of the phase before is finished when it is made."""
    if phase in file.state.phase_runs:
        return file.state.phase_runs[phase]
    for earlier in file.state.phase_runs.values():
        backend.set_status(earlier, "FINISHED")
    run_id = backend.find_or_create_run(
        name=f"{identity.name} · {phase}",
        tags=identity.phase_tags(phase),
        parent=file.state.run_id,
        started_ms=started_ms,
    )
    backend.log_params(run_id, _missing(backend, run_id, identity.phase_params(phase)))
    with file.change() as state:
        state.phase_runs[phase] = run_id
        state.sent[run_id] = backend.last_steps(run_id)
    return run_id


def _known_runs(backend: Backend, file: StateFile, identity: RunIdentity) -> bool:
    """Whether the tracker at this address has our run; what it does not have (any more) is forgotten."""
    before = file.state
    known = before.uri == identity.uri and before.run_id != "" and backend.is_live(before.run_id)
    live = {phase: run_id for phase, run_id in before.phase_runs.items() if known and backend.is_live(run_id)}
    with file.change() as state:
        if not known:
            state.forget_runs()
        state.uri, state.phase_runs = identity.uri, live
    return known


def _ask_what_arrived(backend: Backend, file: StateFile, *, run_id: str) -> None:
    sent = {known: backend.last_steps(known) for known in (run_id, *file.state.phase_runs.values())}
    with file.change() as state:
        state.run_id, state.sent, state.sending = run_id, sent, False


def _log_params(backend: Backend, run_id: str, identity: RunIdentity) -> None:
    """Parameters cannot be changed: what a later attempt has different becomes tags `attempt.<n>.<key>`."""
    kept = backend.params(run_id)
    backend.log_params(run_id, {key: value for key, value in identity.params.items() if key[:250] not in kept})
    if identity.attempt is None:
        return
    changed = {
        f"attempt.{identity.attempt}.{key}": value
        for key, value in identity.params.items()
        if key in kept and kept[key] != backend.kept_param(value)
    }
    backend.set_tags(run_id, {"hierlm.attempts": str(identity.attempt), **changed})


def _missing(backend: Backend, run_id: str, params: dict[str, str]) -> dict[str, str]:
    kept = backend.params(run_id)
    return {key: value for key, value in params.items() if key not in kept}
