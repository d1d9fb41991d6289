"""What tests start without an interpreter of its own is what a user starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import Command, Rank
from tests.conftest import hierlm, hierlm_path, quiet_environment


@pytest.mark.parametrize(
    "words", [["--help"], ["models", "--json"], ["trian"], ["train", "no-such.yaml"], ["eval", "no-run", "--json"]]
)
def test_it_says_and_ends_as_the_console_script_does(words: list[str], tmp_path: Path) -> None:
    script = subprocess.run(
        [hierlm_path(), *words], cwd=tmp_path, env=quiet_environment(), capture_output=True, text=True, check=False
    )
    done = hierlm(*words, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (script.returncode, script.stdout, script.stderr)


def test_it_has_its_own_folder_environment_and_exit_code(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    done = hierlm("status", "--json", cwd=tmp_path, environment={**quiet_environment(), "PATH": ""})
    assert done.stdout == "[]\n" and os.getcwd() != str(tmp_path) and os.environ["PATH"]


def test_what_a_signal_has_ended_says_so(tmp_path: Path) -> None:
    fifo = tmp_path / "config.yaml"
    os.mkfifo(fifo)  # nobody writes: the command waits for ever
    command = Command(["train", fifo], cwd=tmp_path, environment=quiet_environment(), in_one=True)
    assert command.poll() is None
    command.send_signal(signal.SIGTERM)
    assert command.communicate(timeout=600) == ("", "") and command.returncode == -signal.SIGTERM


def test_the_launcher_starts_nothing_else_in_this_way(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Rank(
            [sys.executable, "-c", ""],
            cwd=tmp_path,
            env={},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: None,
        )
