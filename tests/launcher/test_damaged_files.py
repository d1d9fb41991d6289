"""A run whose own files were damaged: what reads them ends in an answer or in one line, and loses nothing good."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from hierlm.checkpoint.commit import save_checkpoint
from hierlm.checkpoint.team import ALONE
from hierlm.config.load import load_config, plain_config
from hierlm.config.structure import fingerprint
from hierlm.errors import UserError
from hierlm.lease import take
from hierlm.phases.timeline import Timeline
from hierlm.report.compare import as_document, compare
from hierlm.report.compare_page import compare_page
from hierlm.report.find import runs_of
from hierlm.report.run_record import load_run
from hierlm.report.run_report import document, run_page, text
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import MetricsFile
from hierlm.tracking.state import StateFile, run_uuid
from hierlm.train.record import summary as summary_module
from hierlm.train.record.attempts import record_end, record_start
from hierlm.train.record.summary import last_evaluation, summarise
from launcher import provenance
from launcher.prepare_run import prepare_run
from launcher.runs import view
from launcher.slurm.job_history import record_submit
from launcher.submit.cancel import cancel_run
from tests.checkpoint.making import facts, write_two_files
from tests.config.making import config
from tests.damaged import damaged, damaged_bytes

LINES = ("metrics.jsonl", "attempts.jsonl", "jobs.jsonl")
DOCUMENTS = ("provenance.json", "summary.json", "tracker.json")
COMMAND = ["hierlm", "train", "config.yaml"]
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""A run syncs what it writes, which says nothing here and takes long."""


@pytest.fixture(autouse=True, scope="module")
def what_hangs_on_no_file() -> Iterator[None]:
    """Asked once: git, installed packages and the model's costs take longer than all else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "git_state", lambda root: {"sha": "1" * 40, "diff": ""})
        patch.setattr(provenance, "distributions", lambda: ())
        patch.setattr(summary_module, "flops_per_token", lambda model, length: 1.0)
        patch.setattr(summary_module, "count_parameters", lambda model: (2, 1))
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one whole run, `runs/run`, that was stopped."""
    folder = tmp_path_factory.mktemp("home")
    settings_ = config(folder, f"run_root={folder}/runs", "tracking.experiment=demo", "tracking.uri=none")
    run = prepare_run(settings_, command_line=COMMAND).run_dir
    prepare_run(settings_, command_line=COMMAND)
    lease = take(run.leases)
    record_start(run, lease=lease, layout={"data_parallel_degree": 1}, first_step=0)
    file = MetricsFile(run.metrics, lease=lease)
    for step in (1, 2, 3):
        file.write(logged(step))
    file.write({"kind": "eval", "step": 3, "split": "valid", "loss": 4.0, "bits_per_byte": 5.0, "eval_seconds": 0.1,
                "tokens": 64, "sources": {"a": {"loss": 4.0, "weight": 0.5, "tokens": 32}}})  # fmt: skip
    file.write({"kind": "save", "step": 3, "save_seconds": 0.1, "save_blocking_seconds": 0.1})
    record_end(run, lease=lease, last_step=3, why="stopped (SIGTERM)")
    record_submit(run, job_id="7")
    summary = summarise(
        run, config=settings_, timeline=Timeline(settings_.phases), step=3, status="stopped", peak_bytes=1
    )
    run.summary.write_text(summary.model_dump_json())
    with StateFile(run.tracker_state).change() as state:
        state.phase_runs, state.sent = {"first": "x"}, {"x": {"train": 3}}
    run_uuid(run.identity)
    shutil.rmtree(run.leases)  # this process lives: it would hold the run
    return folder


def logged(step: int) -> dict[str, Any]:
    measured = {"loss": 5.0 / step, "learning_rate": 1e-3, "grad_norm": 1.0, "loss/aux": 0.5, "skipped_steps": 0}
    speed = {"tokens_per_second": 10.0, "step_seconds": 0.1, "data_wait_fraction": 0.0, "device_memory_bytes": 2**20}
    peak = {"share_of_peak": 0.1, "peak_kind": "measured"}
    return {"kind": "train", "step": step, "phase": "first", "tokens_seen": step * 512, **measured, **speed, **peak}


def read_everything(folder: Path) -> None:
    """All that a resumed attempt, `status`, `cancel`, `report` and `compare` do with the files of a run."""
    run = RunDir(folder / "runs" / "run")
    with suppress(UserError, DataError):
        settings_ = config(folder, f"run_root={folder}/runs", "tracking.experiment=demo", "tracking.uri=none")
        prepare_run(settings_, command_line=COMMAND)
        resume(run, settings_)
    cluster = view.Cluster(run_command=silent)
    for queue in ([], None):
        view.status_of(run, queue=queue, cluster=cluster).document()
        cancel_run(run, queue=queue, run_command=silent)
    with suppress(UserError):
        record = load_run(run.path)
        for made in (text(record, balance=None), json.dumps(document(record, balance=None), default=str)):
            assert made
        assert run_page(record, balance=None)
    with suppress(UserError):
        comparison = compare("demo", runs_of("demo", run_root=folder / "runs"))
        assert as_document(comparison) and compare_page(comparison)


def resume(run: RunDir, settings_: Any) -> None:
    lease = take(run.leases)
    record_start(run, lease=lease, layout={}, first_step=2)
    file = MetricsFile(run.metrics, lease=lease)
    file.truncate_after(step=2)
    file.write(logged(3))
    state, identity = StateFile(run.tracker_state).state, run_uuid(run.identity)
    assert all(isinstance(step, int) for sent in state.sent.values() for step in sent.values()) and len(identity) == 32
    summarise(run, config=settings_, timeline=Timeline(settings_.phases), step=3, status="stopped", peak_bytes=1)
    last_evaluation([], "valid")
    record_end(run, lease=lease, last_step=3, why="finished")
    shutil.rmtree(run.leases)


def silent(command: object) -> str:
    raise UserError("Invalid job id specified")


def copy_of(home: Path, folder: str) -> RunDir:
    shutil.copytree(home, folder, dirs_exist_ok=True)
    text_ = (Path(folder) / "runs" / "run" / "config.yaml").read_text()
    (Path(folder) / "runs" / "run" / "config.yaml").write_text(text_.replace(str(home), folder))
    return RunDir(Path(folder) / "runs" / "run")


def test_the_whole_run_is_read_whole(home: Path, tmp_path: Path) -> None:
    read_everything(copy_of(home, str(tmp_path)).path.parents[1])


@pytest.mark.parametrize("name", [*LINES, *DOCUMENTS, "run-uuid"])
@settings(max_examples=5)
@given(data=st.data())
def test_no_damage_ends_in_a_traceback(name: str, data: st.DataObject, home: Path) -> None:
    good = (home / "runs" / "run" / name).read_bytes()
    bad = data.draw(damaged_bytes(good) if name == "run-uuid" else damaged(good))
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        run = copy_of(home, folder)
        (run.path / name).write_bytes(bad)
        read_everything(Path(folder))


@pytest.mark.matrix
@pytest.mark.parametrize("name", [*LINES, *DOCUMENTS])
@settings(max_examples=1000)
@given(data=st.data())
def test_no_damage_at_all_ends_in_a_traceback(name: str, data: st.DataObject, home: Path) -> None:
    good = (home / "runs" / "run" / name).read_bytes()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        run = copy_of(home, folder)
        (run.path / name).write_bytes(data.draw(damaged(good)))
        read_everything(Path(folder))


@pytest.mark.parametrize("bad", [b"\xff\xfe", b'{"resumes": 7}', b"[1]", b'{"resumes": [], "git": 3}', b""])
def test_provenance_that_was_damaged_is_kept_beside_and_said(bad: bytes, home: Path, tmp_path: Path) -> None:
    run = copy_of(home, str(tmp_path))
    run.provenance.write_bytes(bad)
    settings_ = config(tmp_path, f"run_root={tmp_path}/runs", "tracking.experiment=demo", "tracking.uri=none")
    messages = prepare_run(settings_, command_line=COMMAND).messages
    assert any("provenance.json.damaged" in line for line in messages)
    assert (run.path / "provenance.json.damaged").read_bytes() == bad
    assert len(json.loads(run.provenance.read_text())["resumes"]) == 1


def test_lines_that_are_none_hide_no_other(home: Path, tmp_path: Path) -> None:
    run = copy_of(home, str(tmp_path))
    for name in LINES:
        path = run.path / name
        path.write_bytes(b'\xff\xfe{"event": 3}\n[]\n{"step": "one"}\n' + path.read_bytes())
    seen = view.status_of(run, queue=None, cluster=view.Cluster(run_command=silent))
    assert (seen.step, seen.attempts, seen.reason) == (3, 1, "SIGTERM")


def test_a_damaged_summary_leaves_the_records_to_speak(home: Path, tmp_path: Path) -> None:
    run = copy_of(home, str(tmp_path))
    run.summary.write_bytes(b"\xff")
    said: list[str] = []
    (row,) = compare("demo", runs_of("demo", run_root=tmp_path / "runs", report=said.append)).rows
    assert row.values["loss"] == 4.0
    (line,) = said
    assert "summary.json" in line and "left out" in line


@pytest.mark.parametrize("bad", [b"\xff\xfe", b"name: [", b"", b"seed: x\n"])
def test_a_damaged_config_is_written_anew_from_the_checkpoint(bad: bytes, home: Path, tmp_path: Path) -> None:
    run = copy_of(home, str(tmp_path))
    before = load_config(run.config)
    known = {"config": plain_config(before), "config_fingerprint": fingerprint(before)}
    made = facts(3).model_copy(update={**known, "cursor": None, "proof": None})
    save_checkpoint(run.checkpoints, facts=made, write=write_two_files(3), team=ALONE, keep=1)
    run.config.write_bytes(bad)
    settings_ = config(tmp_path, f"run_root={tmp_path}/runs", "tracking.experiment=demo", "tracking.uri=none")
    messages = prepare_run(settings_, command_line=COMMAND).messages
    assert any("config.yaml.damaged" in line and "checkpoint of step 3" in line for line in messages)
    assert load_config(run.config) == before
    assert (run.path / "config.yaml.damaged").read_bytes() == bad


def test_nobody_is_told_to_throw_checkpoints_away(home: Path, tmp_path: Path) -> None:
    run = copy_of(home, str(tmp_path))
    made = facts(3).model_copy(update={"cursor": None, "proof": None})  # an old one: it holds no config
    save_checkpoint(run.checkpoints, facts=made, write=write_two_files(3), team=ALONE, keep=1)
    run.config.write_bytes(b"name: [")
    settings_ = config(tmp_path, f"run_root={tmp_path}/runs")
    with pytest.raises(UserError) as caught:
        prepare_run(settings_, command_line=COMMAND)
    assert "remove" not in str(caught.value) and "restore it from a copy" in str(caught.value)
    with pytest.raises(UserError) as caught:
        load_run(run.path)
    assert "remove" not in str(caught.value)


def test_one_damaged_run_does_not_hide_the_others(home: Path, tmp_path: Path) -> None:
    run = copy_of(home, str(tmp_path))
    other = run.path.parent / "other"
    shutil.copytree(run.path, other)
    (other / "config.yaml").write_bytes(b"\xff")
    said: list[str] = []
    assert [found.name for found in runs_of("demo", run_root=run.path.parent, report=said.append)] == ["run"]
    assert len(said) == 1 and "other/config.yaml" in said[0]
