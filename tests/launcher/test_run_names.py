"""Every verb that takes a RUN takes its directory or its name under runs/."""

from pathlib import Path

import pytest

from hierlm.config.load import dump_config
from hierlm.run_dir import RunDir
from launcher.cli import run
from tests.config.making import config

VERBS = {
    "report": (),
    "eval": (),
    "generate": ("--prompt", "x"),
    "status": (),
    "logs": (),
    "cancel": (),
    "checkpoint list": (),
    "checkpoint verify": (),
    "track sync": (),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.chdir(tmp_path)
    made = RunDir(tmp_path / "runs" / "mine")
    made.logs.mkdir(parents=True)
    made.config.write_text(dump_config(config(tmp_path, "tracking.uri=none")))
    return made


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_is_found_by_its_name(verb: str, place: RunDir, capfd: pytest.CaptureFixture[str]) -> None:
    by_name = run([*verb.split(), "mine", *VERBS[verb]]), *capfd.readouterr()
    by_path = run([*verb.split(), "runs/mine", *VERBS[verb]]), *capfd.readouterr()
    assert by_name == by_path
    assert "nearest" not in by_name[2]
    assert run([*verb.split(), "mime", *VERBS[verb]]) == 2
    assert "nearest: mine" in capfd.readouterr().err
