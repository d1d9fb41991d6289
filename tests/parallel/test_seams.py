"""No name of another package that is depended on can go without a start saying so, in one line."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from hierlm.errors import UserError
from hierlm.parallel.seams import versions
from hierlm.parallel.seams.handle import Field, Handle, Replaced, Written, overrides
from hierlm.parallel.seams.seam import Seam, is_there
from hierlm.parallel.seams.versions import TRIED
from tests.conftest import ROOT, quiet_environment
from tests.distributed.spawn import run_ranks
from tests.parallel.renaming import Found, found_by_name, found_on_objects, seams_that_apply


@pytest.fixture(scope="module")
def found() -> Found:
    """One process for all that one has; two for stages and for slices, where none may wait for the other."""
    everything: Found = run_ranks(found_by_name, 1, timeout_seconds=600)[0]
    for layout in ("pipeline", "tensor"):
        first, second = run_ranks(found_on_objects, 2, [layout], timeout_seconds=600)
        assert first == second
        everything = {**everything, **first}
    return everything


@pytest.mark.slow
@pytest.mark.distributed
def test_every_name_was_renamed(found: Found) -> None:
    assert set(found) == seams_that_apply()
    assert len(found) > 100


@pytest.mark.slow
@pytest.mark.distributed
def test_a_name_that_is_away_ends_the_start_in_one_line_that_names_it(found: Found) -> None:
    begun = [seam for seam, problems in found.items() if problems is None]
    assert begun == []
    for seam, problems in found.items():
        assert problems is not None
        mine = [line for line in problems if line.startswith(f"{seam.owner}.{seam.name}: ")]
        assert len(mine) == 1, (seam, problems)
        whys = [other.why for other in found if (other.owner, other.name) == (seam.owner, seam.name)]
        assert any(f"needed because {why}; pip install" in mine[0] for why in whys)
        assert " is installed, " in mine[0] and " tried)" in mine[0]
        # a name may be listed for several uses, as where a function of theirs looks for what we replace
        assert all(seam.name in line for line in problems), (seam, problems)


IN_A_JOB = """
import sys
import {module} as holder
holder.renamed = holder.{name}
del holder.{name}
sys.argv = ["hierlm", {run_dir!r}]
from hierlm.__main__ import main
code = main()
sys.stdout.flush()
import os
os._exit(code)
"""


@pytest.mark.slow
def test_a_job_ends_with_exit_code_2_and_that_line(tmp_path: Path) -> None:
    script = IN_A_JOB.format(module="deepspeed.pipe", name="PipelineModule", run_dir=str(tmp_path / "run"))
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=quiet_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: deepspeed.pipe.PipelineModule: not there (deepspeed ")


class Theirs:
    """Stands for a class of another package."""

    def __init__(self) -> None:
        self.count, self._hidden = 1, 2

    def reduce(self, grads: Any = None, size: int = 3) -> str:
        return "theirs"


class OnTheirs(Handle):
    """A list of every kind."""

    of = f"{__name__}.Theirs"

    count = Written[int]("it is set")
    hidden = Field[int]("it is read", name="_hidden")
    reduce = Replaced[Any]("it is replaced", takes=("grads", "size"))


@pytest.fixture(autouse=True)
def tests_are_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(versions.DISTRIBUTIONS, "tests", "deepspeed")


def test_what_is_listed_is_read_set_and_replaced() -> None:
    theirs = Theirs()
    handle = OnTheirs(theirs).require()
    handle.count += 4
    handle.reduce = lambda grads=None, size=0: "ours"
    assert (theirs.count, handle.hidden, theirs.reduce()) == (5, 2, "ours")


def test_what_is_not_listed_is_neither_read_nor_set() -> None:
    handle = OnTheirs(Theirs())
    for name in ("_hidden", "counts"):
        with pytest.raises(AttributeError):
            getattr(handle, name)
        with pytest.raises(AttributeError, match="not listed"):
            setattr(handle, name, 0)
    with pytest.raises(AttributeError, match="not listed as written"):
        handle.hidden = 3


def test_a_replacement_takes_what_the_replaced_took() -> None:
    for wrong in (lambda: "ours", lambda size, grads: "ours", lambda **_: "ours"):
        with pytest.raises(UserError, match=r"Theirs\.reduce: takes \(grads, size\), ours takes"):
            OnTheirs(Theirs()).reduce = wrong
    with pytest.raises(AssertionError, match="takes"):
        overrides(OnTheirs)(type("Ours", (Theirs,), {"reduce": lambda self, grads: "ours"}))


def test_other_parameters_than_those_that_were_replaced_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(OnTheirs.problems_of_class()) == []
    monkeypatch.setattr(Theirs, "reduce", lambda self, gradients, size: "newer")
    (line,) = OnTheirs.problems_of_class()
    assert "takes (gradients, size) and not (grads, size)" in line


def test_what_stands_in_for_a_lacking_attribute_does_not_count() -> None:
    class Passing:
        def __getattr__(self, name: str) -> int:
            return 0

    with pytest.raises(UserError, match=r"\.count: not there"):
        OnTheirs(Passing()).require()


def test_names_of_other_releases_are_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    older, newer = (Seam("deepspeed", "name", "why", versions=v) for v in ("<0.19.8", ">=0.19.8"))
    for installed, applies in (
        ("0.19.3", (True, False)),
        ("0.19.8", (False, True)),
        ("of unknown version", (False, True)),
    ):
        monkeypatch.setattr(versions, "installed", lambda _, installed=installed: installed)
        assert (older.applies, newer.applies) == applies


def test_a_class_by_the_name_of_its_module_does_not_hide_it() -> None:
    assert is_there("deepspeed.utils.tensor_fragment.tensor_fragment")
    assert not is_there("deepspeed.utils.tensor_fragment.no_fragment")


@pytest.mark.parametrize("distribution", ["deepspeed", "megatron-core"])
def test_the_ranges_say_only_what_was_run(distribution: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (allowed,) = [r for words in project["dependencies"] if (r := Requirement(words)).name == distribution]
    bounds = {part.operator: part.version for part in allowed.specifier}
    assert bounds == {">=": TRIED[distribution][0], "<=": TRIED[distribution][-1]}
