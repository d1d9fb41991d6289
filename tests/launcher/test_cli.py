import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli import COMMANDS, help_text, run, verbs
from tests.conftest import hierlm, hierlm_path


def test_the_help_names_every_verb_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == run([]) == 0
    text = capsys.readouterr().out
    for verb in verbs():
        (line,) = [line for line in help_text().splitlines() if line.startswith(f"  {verb} ")]
        assert len(line.removeprefix(f"  {verb}").strip()) > 10
        assert line in text


def test_a_verb_is_there_exactly_when_its_file_is() -> None:
    files = {path.stem for path in COMMANDS.glob("*.py")} - {"__init__"}
    assert {verb.replace("-", "_") for verb in verbs()} == files
    assert {"train", "submit", "models", "doctor"} <= files


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    run([verb, "--help"])
    text = capsys.readouterr().out
    assert f"Example: hierlm {verb}" in " ".join(text.split())
    listed = text.partition("Commands:")[2].partition("\n\n")[0].splitlines()  # of a group
    for name in [line.split()[0] for line in listed if line.startswith("  ")]:
        run([verb, name, "--help"])
        assert f"Example: hierlm {verb} {name}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["trian"], "no such verb: trian, allowed: "),
        (["trian"], "nearest: train"),
        (["--jsno"], "no such option: --jsno"),
        (["train"], "CONFIG"),
        (["train", "--jsno", "x"], "--json"),
        (["train", "/no/such.yaml"], "/no/such.yaml: no such file"),
        (["models", "transfomer"], "allowed: "),
    ],
)
def test_a_wrong_command_line_is_exit_2_and_one_line(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and part in err and len(err.splitlines()) == 1


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("hierlm 0.")


def test_the_help_answers_at_once() -> None:
    seconds = [_processor_seconds(hierlm_path(), "--help") for _ in range(3)]
    assert min(seconds) - _processor_seconds(sys.executable, "-c", "pass") < 0.3, seconds


def _processor_seconds(*command: str) -> float:
    """Its own: on a busy machine a clock on the wall measures the others."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_console_script_runs(tmp_path: Path) -> None:
    assert "Verbs:" in hierlm("--help", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["trian", "--json"], "no such verb: trian"),
        (["train", "--json", "/no/such.yaml"], "/no/such.yaml: no such file"),
        (["train", "--jsno", "--json", "x"], "--jsno"),
        (["status", "nobody", "--json"], "nobody: neither a run directory"),
        (["report", "nobody", "--json"], "nobody"),
        (["eval", "nobody", "--json"], "nobody"),
        (["generate", "nobody", "--prompt", "x", "--json"], "nobody"),
        (["checkpoint", "list", "nobody", "--json"], "nobody"),
        (["track", "sync", "nobody", "--json"], "nobody"),
        (["models", "transfomer", "--json"], "transfomer"),
        (["data", "verify", "/no/such", "--json"], "/no/such"),
    ],
)
def test_with_json_an_error_is_one_object_on_stdout(
    arguments: list[str], part: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    out, err = capfd.readouterr()
    answer = json.loads(out)
    assert part in answer["error"] and answer["exit_code"] == 2 and part in err


def test_without_json_stdout_stays_empty(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--", "--json"]) == 2
    assert capfd.readouterr().out == ""
