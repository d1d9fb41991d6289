import shutil
import socket
from pathlib import Path

import pytest

from hierlm.errors import UserError
from launcher.preflight import (
    checkpoint_bytes,
    data_problems,
    refuse_what_cannot_run,
    room_problems,
    tracker_note,
)
from tests.config.making import config


def test_a_dataset_that_fits_raises_nothing(tmp_path: Path, tiny_dataset: Path) -> None:
    refuse_what_cannot_run(config(tmp_path, f"data.path={tiny_dataset}"))


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("data.path=/no/data", "/no/data"),
        ("data.tokenizer=sentencepiece", "another tokenizer"),
        ("phases.1.sequence_length=10000000", "longer than the train split"),
        ("model.vocab_size=100", "model.vocab_size"),
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path: Path, tiny_dataset: Path, override: str, part: str) -> None:
    with pytest.raises(UserError, match=part):
        refuse_what_cannot_run(config(tmp_path, f"data.path={tiny_dataset}", override))


def test_all_reasons_are_told_together(tmp_path: Path, tiny_dataset: Path) -> None:
    sources = f"data.sources=[{{path: {tiny_dataset}}}, {{path: /no/data}}]"
    assert len(data_problems(config(tmp_path, sources, "model.vocab_size=100"))) == 2


def test_a_disk_without_room_for_the_checkpoints_is_refused_with_what_they_take(tmp_path: Path, monkeypatch) -> None:
    small = config(tmp_path, f"run_root={tmp_path}/runs", "checkpoint.keep=3")
    needed = 4 * checkpoint_bytes(small)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=needed))
    assert room_problems(small) == []
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=needed - 1))
    assert "3 + 1 checkpoints of this run take" in room_problems(small)[0]


def test_what_a_run_holds_already_needs_no_room(tmp_path: Path, monkeypatch) -> None:
    small = config(tmp_path, f"run_root={tmp_path}/runs", "checkpoint.keep=1")
    held = tmp_path / "runs" / small.name / "checkpoints" / "step-00000001"
    held.mkdir(parents=True)
    (held / "weights").write_bytes(bytes(checkpoint_bytes(small)))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=checkpoint_bytes(small)))
    assert room_problems(small) == []


def test_a_server_that_does_not_answer_is_told_and_no_reason_to_refuse() -> None:
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        note = tracker_note(f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert note is not None and "hierlm track sync" in note


def test_a_server_that_answers_and_a_file_need_no_note() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert tracker_note(f"http://127.0.0.1:{server.getsockname()[1]}") is None
    assert tracker_note("sqlite:///runs/mlflow.db") is None
