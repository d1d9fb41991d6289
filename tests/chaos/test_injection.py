"""What the campaign does to processes happens to them: at the call it names, to one of them, and not before."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.injection import Plan, library

PROGRAM = """
import json, os, sys, time
told = []
def tried(what):
    try:
        what()
        told.append(0)
    except OSError as error:
        told.append(error.errno)
folder = sys.argv[1]
for number in range(4):
    with open(f"{folder}/here/{number}", "w") as file:
        file.write("x")
        file.flush()
        tried(lambda: os.fsync(file.fileno()))
    tried(lambda: os.rename(f"{folder}/here/{number}", f"{folder}/here/done-{number}"))
    tried(lambda: os.listdir(f"{folder}/here"))
print(json.dumps([told, time.time(), sorted(os.listdir(folder + "/here"))]))
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    if library(tmp_path) is None:
        pytest.skip("no C compiler")
    (tmp_path / "here").mkdir()
    return Plan(tmp_path / "plan")


def happened(plan: Plan) -> tuple[list[int], float, list[str]]:
    """Errors of fsync, rename and listing, four times; the program's time; the files there are."""
    environment = {**os.environ, **plan.environment(), "PYTHONPATH": ""}
    command = [sys.executable, "-S", "-c", PROGRAM, str(plan.path.parent)]
    return tuple(json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout))


def test_without_a_plan_nothing_happens(plan: Plan) -> None:
    assert happened(plan)[0] == [0] * 12


@pytest.mark.parametrize(("call", "place"), [("fsync", 0), ("rename", 1), ("list", 2)])
@pytest.mark.parametrize("nth", [1, 3])
def test_the_nth_call_fails_once(call: str, place: int, nth: int, plan: Plan) -> None:
    plan.errno(errno.ESTALE, call=call, path="/here", nth=nth)
    errors, _, _ = happened(plan)
    assert errors == [errno.ESTALE if number == place + 3 * (nth - 1) else 0 for number in range(12)]
    assert call in plan.struck() and "/here" in plan.struck()
    assert happened(plan)[0] == [0] * 12  # for all processes together


def test_other_paths_are_left_alone(plan: Plan) -> None:
    plan.errno(errno.EIO, call="any", path="/elsewhere/", nth=1)
    assert happened(plan)[0] == [0] * 12 and not plan.struck()


def test_a_rename_is_done_whose_answer_is_lost(plan: Plan) -> None:
    plan.errno(errno.ENOENT, call="rename", path="/here", nth=2, is_done=True)
    errors, _, files = happened(plan)
    assert errors[4] == errno.ENOENT and "done-1" in files


def test_the_clock_is_an_hour_back(plan: Plan) -> None:
    before = happened(plan)[1]
    plan.clock(-3600)
    assert -3600 <= happened(plan)[1] - before < -3000
    assert plan.struck()
