"""The replay: every record once and in order, however often the process or the tracker goes away."""

import json
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hierlm.lease import TakenOverError, take
from hierlm.run_dir import RunDir
from hierlm.tracking.backend import MAX_POINTS
from hierlm.tracking.file_lock import FileLock
from hierlm.tracking.jsonl import MetricsFile
from hierlm.tracking.replay import BusyError
from tests.tracking.conftest import CONFIG, MemoryBackend, MemoryRun, make_replay, write_steps


def sent_by_a_process_that_ended(run_dir: RunDir, backend: MemoryBackend) -> None:
    """Twenty steps, all of them at the tracker."""
    write_steps(run_dir, 1, 20)
    replay = make_replay(run_dir, backend)
    replay.push()
    replay.close()


def test_a_run_has_every_step_once_and_a_child_run_per_phase(run_dir: RunDir, backend: MemoryBackend) -> None:
    write_steps(run_dir, 1, 80)
    make_replay(run_dir, backend).push()
    run = backend.only(part="run")
    assert run.steps("train/loss") == list(range(1, 81))
    assert run.steps("valid/loss") == list(range(10, 81, 10))
    assert run.params == CONFIG
    short, long = backend.only(phase="short"), backend.only(phase="long")
    assert short.steps("train/loss") == list(range(1, 51))
    assert long.steps("train/loss") == list(range(51, 81))
    assert long.steps("valid/loss") == [60, 70, 80]
    assert short.params == {"name": "short", "sequence_length": "64"}
    assert {short.parent, long.parent} == {next(id for id, other in backend.runs.items() if other is run)}
    assert (short.status, long.status) == ("FINISHED", "RUNNING")


def test_what_was_sent_is_not_sent_again_and_what_follows_is(run_dir: RunDir, backend: MemoryBackend) -> None:
    write_steps(run_dir, 1, 20)
    replay = make_replay(run_dir, backend)
    assert replay.push() == 22
    assert replay.push() == 0
    write_steps(run_dir, 21, 30)
    assert replay.push() == 11
    assert backend.only(part="run").steps("train/loss") == list(range(1, 31))


def test_an_attempt_that_was_taken_over_sends_nothing(run_dir: RunDir, backend: MemoryBackend) -> None:
    older = make_replay(run_dir, backend, lease=take(run_dir.leases))
    write_steps(run_dir, 1, 20)
    older.push()
    take(run_dir.leases)
    write_steps(run_dir, 21, 30)
    with pytest.raises(TakenOverError):
        older.push()
    assert backend.only(part="run").steps("train/loss") == list(range(1, 21))


def test_three_interruptions_with_steps_made_again_leave_one_run_and_each_step_once(
    run_dir: RunDir, backend: MemoryBackend
) -> None:
    for attempt, (resumed_at, reached) in enumerate([(0, 37), (30, 58), (50, 71), (70, 100)], start=1):
        MetricsFile(run_dir.metrics).truncate_after(step=resumed_at)
        write_steps(run_dir, resumed_at + 1, reached)
        replay = make_replay(run_dir, backend, attempt=attempt)
        replay.push()
        replay.close()
    run = backend.only(part="run")
    assert run.steps("train/loss") == list(range(1, 101))
    assert run.tags["hierlm.attempts"] == "4"
    assert len(backend.runs) == 3


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(failures=st.lists(st.tuples(st.integers(0, 25), st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_whatever_call_fails_nothing_is_missing_or_twice(
    tmp_path_factory: pytest.TempPathFactory, failures: list[tuple[int, bool, bool]]
) -> None:
    """Calls fail before or after their work was done; the process dies, or goes on with what it knows."""
    run_dir = RunDir(tmp_path_factory.mktemp("runs") / "demo")
    run_dir.path.mkdir()
    backend = MemoryBackend()
    replay = make_replay(run_dir, backend)
    for number, (calls, answers_are_lost, process_dies) in enumerate(failures):
        write_steps(run_dir, 20 * number + 1, 20 * number + 20)
        backend.fail_after_calls, backend.lose_answers = calls, answers_are_lost
        for _ in range(2):
            with suppress(ConnectionError):
                replay.push()
        if process_dies:
            replay.close()
            replay = make_replay(run_dir, backend)
    backend.fail_after_calls, backend.lose_answers = None, False
    replay.want_status("FINISHED")
    replay.push()
    replay.close()
    steps = list(range(1, 20 * len(failures) + 1))
    run = backend.only(part="run")
    assert run.steps("train/loss") == steps
    assert run.steps("valid/loss") == [step for step in steps if step % 10 == 0]
    assert [step for phase in _phases(backend) for step in phase.steps("train/loss")] == steps
    assert run.status == "FINISHED"


def _phases(backend: MemoryBackend) -> list[MemoryRun]:
    return [run for run in backend.runs.values() if run.tags["hierlm.part"] == "phase"]


def test_a_batch_that_arrived_before_a_kill_is_not_repeated_with_new_times(
    run_dir: RunDir, backend: MemoryBackend
) -> None:
    """The process dies after the tracker took a batch and before the state file says so; the steps are made again."""
    write_steps(run_dir, 1, 30)
    first = make_replay(run_dir, backend)
    first.push()
    first.close()
    state = json.loads(run_dir.tracker_state.read_text())
    run_dir.tracker_state.write_text(json.dumps({**state, "sent": {}, "sending": True}))
    MetricsFile(run_dir.metrics).truncate_after(step=0)
    write_steps(run_dir, 1, 40)
    make_replay(run_dir, backend, attempt=2).push()
    assert backend.only(part="run").steps("train/loss") == list(range(1, 41))


@pytest.mark.parametrize("left", ["nothing", "half a file"])
def test_a_lost_state_file_finds_the_run_by_its_uuid(run_dir: RunDir, backend: MemoryBackend, left: str) -> None:
    sent_by_a_process_that_ended(run_dir, backend)
    if left == "nothing":
        run_dir.tracker_state.unlink()
    else:
        run_dir.tracker_state.write_text('{"uri": "mem')
    write_steps(run_dir, 21, 25)
    make_replay(run_dir, backend, attempt=2).push()
    assert backend.only(part="run").steps("train/loss") == list(range(1, 26))


def test_a_run_deleted_at_the_tracker_is_made_again_from_the_file(run_dir: RunDir, backend: MemoryBackend) -> None:
    sent_by_a_process_that_ended(run_dir, backend)
    backend.runs.clear()
    make_replay(run_dir, backend, attempt=2).push()
    assert backend.only(part="run").steps("train/loss") == list(range(1, 21))


def test_a_run_directory_started_afresh_is_another_run(run_dir: RunDir, backend: MemoryBackend) -> None:
    sent_by_a_process_that_ended(run_dir, backend)
    for path in (run_dir.metrics, run_dir.tracker_state, run_dir.identity):
        path.unlink()
    write_steps(run_dir, 1, 10)
    make_replay(run_dir, backend).push()
    runs = [run for run in backend.runs.values() if run.tags["hierlm.part"] == "run"]
    assert [len(run.steps("train/loss")) for run in runs] == [20, 10]


def test_what_a_later_attempt_changes_becomes_tags(run_dir: RunDir, backend: MemoryBackend) -> None:
    first = make_replay(run_dir, backend)
    first.push()
    first.close()
    changed = {**CONFIG, "model.arch": "hourglass", "parallel.zero_stage": "2", "phases.0.sequence_length": "32"}
    make_replay(run_dir, backend, attempt=2, params=changed).push()
    run = backend.only(part="run")
    assert run.params["phases.0.sequence_length"] == "64"
    assert run.params["parallel.zero_stage"] == "2"
    assert run.tags["attempt.2.phases.0.sequence_length"] == "32"
    assert not [key for key in run.tags if key.endswith("model.arch")]


def test_members_of_a_sweep_share_one_parent(run_dir: RunDir, backend: MemoryBackend) -> None:
    other = RunDir(run_dir.path.with_name("other"))
    other.path.mkdir()
    for member in (run_dir, other):
        make_replay(member, backend, sweep="learning-rates").push()
    parent = next(id for id, run in backend.runs.items() if run.tags["hierlm.part"] == "sweep")
    members = [run for run in backend.runs.values() if run.tags["hierlm.part"] == "run"]
    assert [run.parent for run in members] == [parent, parent]


def test_final_state_files_and_model_arrive(run_dir: RunDir, backend: MemoryBackend) -> None:
    write_steps(run_dir, 1, 60)
    run_dir.summary.write_text("{}")
    replay = make_replay(run_dir, backend, files=(run_dir.config, run_dir.provenance))
    replay.push()
    assert backend.only(part="run").files == ["config.yaml"]
    replay.want_status("FINISHED")
    replay.push()
    run = backend.only(part="run")
    assert (run.status, backend.only(phase="long").status) == ("FINISHED", "FINISHED")
    assert run.files == ["config.yaml", "summary.json"]
    assert run.models == ["demo"]


def test_a_failed_run_has_no_model_and_runs_again_on_the_next_attempt(run_dir: RunDir, backend: MemoryBackend) -> None:
    write_steps(run_dir, 1, 10)
    first = make_replay(run_dir, backend)
    first.want_status("FAILED")
    first.push()
    first.close()
    assert (backend.only(part="run").status, backend.only(part="run").models) == ("FAILED", [])
    make_replay(run_dir, backend, attempt=2).push()
    assert backend.only(part="run").status == "RUNNING"


def test_a_state_that_could_not_be_told_is_told_by_the_next_process(run_dir: RunDir, backend: MemoryBackend) -> None:
    write_steps(run_dir, 1, 10)
    first = make_replay(run_dir, backend)
    backend.is_down = True
    first.want_status("KILLED")
    with pytest.raises(ConnectionError):
        first.push()
    first.close()
    backend.is_down = False
    make_replay(run_dir, backend, attempt=None).push()
    assert backend.only(part="run").status == "KILLED"


def test_an_artifact_store_out_of_reach_does_not_hold_up_numbers(run_dir: RunDir, backend: MemoryBackend) -> None:
    backend.artifacts_fail = True
    write_steps(run_dir, 1, 10)
    replay = make_replay(run_dir, backend, files=(run_dir.config,))
    replay.want_status("FINISHED")
    assert replay.push() == 11
    assert "out of reach" in replay.artifact_problem
    assert backend.only(part="run").status == "FINISHED"


def test_many_records_travel_in_batches_the_tracker_takes(run_dir: RunDir, backend: MemoryBackend) -> None:
    file = MetricsFile(run_dir.metrics)
    for step in range(1, 401):
        file.write({"kind": "train", "step": step, **{f"value{i}": float(i) for i in range(9)}})
    make_replay(run_dir, backend).push()  # the backend refuses more than MAX_POINTS at once
    assert len(backend.only(part="run").points) == 400 * 9 > MAX_POINTS


def test_samples_of_every_node_follow_beside_the_metrics(run_dir: RunDir, backend: MemoryBackend) -> None:
    write_steps(run_dir, 1, 10)
    for node in ("node0", "node1"):
        file = MetricsFile(run_dir.logs / f"system-{node}.jsonl")
        for step in (1, 2):
            file.write({"kind": "system", "step": step, "node": node, "cpu_utilization_percentage": 50.0})
    make_replay(run_dir, backend).push()
    run = backend.only(part="run")
    assert run.steps("system/node1/cpu_utilization_percentage") == [1, 2]
    assert not backend.only(phase="short").steps("system/node1/cpu_utilization_percentage")


def test_only_one_process_follows_a_run(run_dir: RunDir, backend: MemoryBackend) -> None:
    write_steps(run_dir, 1, 10)
    holder = FileLock(run_dir.tracker_state.with_suffix(".lock"))
    assert holder.acquire(wait=False)
    with pytest.raises(BusyError):
        make_replay(run_dir, backend).push()
    holder.release()
    assert make_replay(run_dir, backend).push() == 11


def test_runs_begin_when_training_did_not_when_the_tracker_heard_of_them(
    run_dir: RunDir, backend: MemoryBackend
) -> None:
    write_steps(run_dir, 1, 60)
    make_replay(run_dir, backend, started_ms=1_700_000_000_000).push()
    times = {point.step: point.time_ms for point in backend.only(part="run").points}
    assert backend.only(part="run").started_ms == 1_700_000_000_000
    assert [backend.only(phase=phase).started_ms for phase in ("short", "long")] == [times[1], times[51]]
