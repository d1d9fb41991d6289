import json
import subprocess
import sys

import pytest
import typer

from data_pipeline.errors import DataError
from hierlm.errors import UserError
from launcher.verb import exit_code_of, json_on_stdout


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
