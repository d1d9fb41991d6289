import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from data_pipeline.errors import DataError
from hierlm.errors import UserError
from launcher.verb import exit_code_of, json_on_stdout, print_json
from tests.conftest import hierlm_path


def raising(error: BaseException) -> object:
    raise error


@pytest.mark.parametrize("kind", [UserError, DataError])
def test_each_problem_is_one_line_on_stderr(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(lambda: raising(kind(["a: wrong", "b: also\nwrong"])), verb="hierlm x") == 2
    assert capsys.readouterr() == ("", "hierlm x: a: wrong\nhierlm x: b: also wrong\n")


def test_an_interrupt_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(lambda: raising(KeyboardInterrupt()), verb="hierlm x") == 130
    assert capsys.readouterr().err == "hierlm x: interrupted\n"


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1), (85, 85), ("text", 0)])
def test_a_verb_gives_its_exit_code(result: object, code: int) -> None:
    assert exit_code_of(lambda: result, verb="hierlm x") == code


def test_a_wrong_command_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(lambda: raising(typer.BadParameter("no good")), verb="hierlm x") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hierlm x: ") and "no good" in line


def test_our_own_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code_of(lambda: 1 // 0, verb="hierlm x")


def test_with_json_nothing_else_reaches_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    with json_on_stdout(True) as print_document:
        print("chatter")
        subprocess.run([sys.executable, "-c", "print('noise of a library')"], check=True)
        print_document({"answer": 42})
        print("more chatter")
    print("after")
    out, err = capfd.readouterr()
    assert json.loads(out.removesuffix("after\n")) == {"answer": 42}
    assert "chatter\n" in err and "noise of a library" in err and "more chatter" in err


def test_without_json_stdout_is_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with json_on_stdout(False):
        print("text")
    assert capfd.readouterr() == ("text\n", "")


def test_a_closed_pipe_ends_quietly() -> None:
    work = "lambda: print('x\\n' * 200000)"
    program = f"from launcher.verb import exit_code_of; raise SystemExit(exit_code_of({work}, verb='v'))"
    done = subprocess.run(
        f'{sys.executable} -c "{program}" | head -n 1', shell=True, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("x\n", "")


def said_by(verb: str, where: str) -> subprocess.CompletedProcess[str]:
    """What a shell sees of a verb whose stdout goes `where`; its exit code is the last line."""
    command = f"{{ {hierlm_path()} {verb}; echo $? >&2; }} {where}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", ["--help", "models", "models --json", "train --help", "--version"])
def test_a_reader_that_goes_at_once_ends_a_verb_quietly(verb: str) -> None:
    assert said_by(verb, "| true").stderr in ("1\n", "0\n")  # the reader may go before or after


@pytest.mark.parametrize("verb", ["--help", "models", "models --json"])
def test_an_answer_that_a_full_disk_has_taken_is_a_failure_in_one_line(verb: str) -> None:
    *lines, code = said_by(verb, ">/dev/full").stderr.splitlines()
    assert code == "1" and len(lines) == 1 and "No space left on device" in lines[0]


@pytest.mark.parametrize("where", [">/dev/full", "| true"])
def test_work_that_only_tells_goes_on_and_its_exit_code_is_its_own(where: str) -> None:
    work = "lambda: [time.sleep(0.5), outlets.tell('x' * 9999, stream=sys.stdout), print('y'), 85][-1]"
    program = "import sys, time; from hierlm import outlets; from launcher.verb import exit_code_of; "
    program += f"sys.exit(exit_code_of({work}, verb='v'))"
    script = f'{{ {sys.executable} -c "{program}"; echo $? >&2; }} {where}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "85" and "Traceback" not in done.stderr


def test_a_complaint_that_nobody_hears_leaves_the_exit_code() -> None:
    done = subprocess.run(["bash", "-c", f"{hierlm_path()} train /no/such.yaml 2>/dev/full"], check=False)
    assert done.returncode == 2


def test_a_bug_is_one_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code_of(lambda: 1 // 0, verb="hierlm x", as_json=True)
    assert json.loads(capsys.readouterr().out)["error"].startswith("ZeroDivisionError: ")


@pytest.mark.parametrize("printed", [{"answer": 1}, None])
def test_there_is_one_document_whatever_happens(printed: object, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        if printed is not None:
            print_json(printed)
        return 1

    assert exit_code_of(work, verb="hierlm x", as_json=True) == 1
    document = json.loads(capsys.readouterr().out)
    assert document == printed or (printed is None and document["exit_code"] == 1 and document["error"])


def test_an_interrupt_is_told_to_programs_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(lambda: raising(KeyboardInterrupt()), verb="hierlm x", as_json=True) == 130
    assert json.loads(capsys.readouterr().out)["error"] == "interrupted"


@pytest.mark.parametrize("size", [99, 99999])
def test_bytes_that_a_full_disk_has_taken_are_told_in_one_line(size: int) -> None:
    """As `hierlm generate` writes them."""
    work = f"lambda: (sys.stdout.buffer.write(b'x' * {size}), sys.stdout.buffer.flush())"
    program = f"import sys; from launcher.verb import exit_code_of; sys.exit(exit_code_of({work}, verb='v'))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "v: stdout: No space left on device\n")


def test_a_file_that_fails_is_not_taken_for_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(IsADirectoryError):
        exit_code_of(lambda: Path("/").read_text(), verb="hierlm x", as_json=True)
    assert "IsADirectoryError" in json.loads(capsys.readouterr().out)["error"]
