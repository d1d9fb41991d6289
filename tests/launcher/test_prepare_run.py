import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data_pipeline.errors import DataError
from data_pipeline.read.cursor import Cursor
from data_pipeline.shard_index import load_index
from hierlm.checkpoint.commit import save_checkpoint
from hierlm.checkpoint.team import ALONE
from hierlm.config.load import load_config, plain_config
from hierlm.config.structure import fingerprint
from hierlm.errors import UserError
from hierlm.lease import take
from hierlm.run_dir import RunDir
from launcher import provenance
from launcher.prepare_run import PreparedRun, prepare_run, run_dir_of, write_whole
from tests.checkpoint.making import facts, write_two_files
from tests.config.making import config
from tests.data_pipeline.making import prepared

COMMAND = ["hierlm", "train", "a config.yaml"]


@pytest.fixture(autouse=True)
def code_that_nobody_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "git_state", lambda root: {"sha": "1" * 40, "diff": ""})


def prepare(tmp_path: Path, *overrides: str) -> PreparedRun:
    return prepare_run(config(tmp_path, f"run_root={tmp_path}/runs", *overrides), command_line=COMMAND)


def test_a_new_run_has_its_resolved_config_and_where_it_comes_from(tmp_path: Path) -> None:
    prepared = prepare(tmp_path)
    run_dir = prepared.run_dir
    assert (run_dir.path, prepared.is_finished, prepared.messages) == (tmp_path / "runs" / "run", False, ())
    assert load_config(run_dir.config) == config(tmp_path, f"run_root={tmp_path}/runs")
    told = json.loads(run_dir.provenance.read_text())
    assert told["command_line"] == "hierlm train 'a config.yaml'"
    assert {"git", "host", "packages", "python", "time"} <= told.keys()
    assert told["packages"]["pydantic"]


def test_an_unfinished_run_is_taken_up(tmp_path: Path) -> None:
    prepare(tmp_path)
    again = prepare(tmp_path)
    assert (again.is_finished, again.messages) == (False, ())
    resumes = json.loads(again.run_dir.provenance.read_text())["resumes"]
    assert [set(resume) for resume in resumes] == [{"time", "command_line", "host"}]  # nothing else has changed


def test_a_run_that_a_process_here_trains_is_refused_in_one_line(tmp_path: Path) -> None:
    run_dir = prepare(tmp_path).run_dir
    before = run_dir.provenance.read_text()
    take(run_dir.leases)  # by this very process
    with pytest.raises(UserError) as caught:
        prepare(tmp_path)
    (line,) = caught.value.problems
    assert f"process {os.getpid()} trains it on this machine" in line and "hierlm cancel" in line
    assert run_dir.provenance.read_text() == before


def test_a_run_whose_process_is_gone_is_taken_up(tmp_path: Path) -> None:
    run_dir = prepare(tmp_path).run_dir
    code = "import sys; from pathlib import Path; from hierlm.lease import take; take(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(run_dir.leases)], check=True)
    assert not prepare(tmp_path).is_finished


def test_harmless_changes_are_taken_over_and_said_in_one_line(tmp_path: Path) -> None:
    prepare(tmp_path)
    again = prepare(tmp_path, "parallel.data_parallel_degree=2", "train.log_every.steps=1")
    (line,) = again.messages
    assert "parallel.data_parallel_degree: 1 -> 2; train.log_every.steps: 10 -> 1" in line
    assert load_config(again.run_dir.config).parallel.data_parallel_degree == 2


def test_another_structure_is_refused_with_the_difference_and_the_mend(tmp_path: Path) -> None:
    before = prepare(tmp_path).run_dir.config.read_text()
    with pytest.raises(UserError) as caught:
        prepare(tmp_path, "seed=2", "model.num_layers=3")
    text = "\n".join(caught.value.problems)
    assert "seed: 1234 -> 2" in text and "model.num_layers: 2 -> 3" in text
    assert "name=NAME or remove the directory" in text
    assert run_dir_of(config(tmp_path, f"run_root={tmp_path}/runs")).config.read_text() == before


def test_a_finished_run_says_so(tmp_path: Path) -> None:
    prepare(tmp_path).run_dir.finished.touch()
    again = prepare(tmp_path)
    assert again.is_finished and "is finished" in again.messages[0]
    with pytest.raises(UserError, match="holds a finished run with other settings"):
        prepare(tmp_path, "seed=2")


def test_a_finished_run_made_longer_goes_on(tmp_path: Path) -> None:
    prepare(tmp_path).run_dir.finished.touch()
    longer = prepare(tmp_path, "phases.1.duration.tokens=50000")
    assert not longer.is_finished and not longer.run_dir.finished.exists()
    assert "phases.1.duration.tokens: 5000 -> 50000" in longer.messages[0]
    assert load_config(longer.run_dir.config).phases[1].duration.tokens == 50000


def test_a_launch_killed_half_way_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    run_dir = prepare(tmp_path).run_dir
    run_dir.config.unlink()  # it is written last
    (run_dir.path / ".config.yaml.7.partial").touch()
    assert prepare(tmp_path).run_dir.config.exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "thesis.tex", "checkpoints"])
def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / name).touch()
    with pytest.raises(UserError, match=f"has no config.yaml but {name}"):
        prepare(tmp_path)


def test_a_config_that_cannot_be_read_any_more_is_told_with_the_mend(tmp_path: Path) -> None:
    prepare(tmp_path).run_dir.config.write_text("name: [")
    with pytest.raises(UserError) as caught:
        prepare(tmp_path)
    assert "remove the directory" in caught.value.problems[-1]


@pytest.mark.parametrize("root", ["/proc/nowhere", "{file}/below"])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        prepare(tmp_path, f"run_root={root.format(file=tmp_path / 'file')}")
    (line,) = caught.value.problems
    assert "cannot write the run directory" in line and "run_root=DIR" in line


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \udcff")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_longer_run_is_told_what_its_rate_does(tmp_path: Path) -> None:
    prepare(tmp_path).run_dir.finished.touch()
    rates = [line for line in prepare(tmp_path, "phases.1.duration.tokens=50000").messages if "learning rate" in line]
    assert len(rates) == 1 and "goes from 1.0e-04 at step 15 to" in rates[0]
    assert not any("learning rate" in line for line in prepare(tmp_path, "phases.1.duration.tokens=50000").messages)


def test_before_a_step_is_made_a_run_may_be_made_longer_in_another_way(tmp_path: Path) -> None:
    run_dir = prepare(tmp_path).run_dir
    run_dir.finished.touch()
    prepare(tmp_path, "phases.1.duration.tokens=50000")
    (run_dir.checkpoints / "step-00000015").mkdir(parents=True)  # the last one of the shorter run
    phases = yaml.safe_load(config(tmp_path).model_dump_json())["phases"]
    offered = {"name": "more", "duration": {"steps": 5}, "learning_rate": {"peak": 1e-4, "decay": "constant"}}
    added = f"phases={json.dumps([*phases, {**phases[1], 'restarts_learning_rate': True, **offered}])}"
    again = prepare(tmp_path, added)
    assert not any("learning rate" in line for line in again.messages)
    assert [phase.name for phase in load_config(run_dir.config).phases] == ["first", "second", "more"]
    prepare(tmp_path)  # nor longer at all
    assert len(load_config(run_dir.config).phases) == 2
    prepare(tmp_path, "phases.1.duration.tokens=50000")
    (run_dir.checkpoints / "step-00000020").mkdir()
    with pytest.raises(UserError, match="other settings"):
        prepare(tmp_path, added)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("datasets")
    for letter in "ab":
        prepared(folder / letter, letter.encode() * 4000)
    return [str(folder / letter) for letter in "ab"]


def saved(run_dir: RunDir, *, dataset: str) -> None:
    """A checkpoint of the run as its config file is now."""
    told = load_config(run_dir.config)
    known = {
        "config": plain_config(told),
        "config_fingerprint": fingerprint(told),
        "cursor": Cursor(seed=told.seed, data_pass=0, first_sample=8, fingerprints=(load_index(dataset).fingerprint,)),
        "proof": (5.0,),
    }
    made = facts(10).model_copy(update=known)
    save_checkpoint(run_dir.checkpoints, facts=made, write=write_two_files(10), team=ALONE, keep=1)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("longer", [True, False])
def test_other_data_are_another_run_and_moved_ones_are_not(
    datasets: list[str], tmp_path: Path, finished: bool, longer: bool
) -> None:
    first, second = datasets
    run_dir = prepare(tmp_path, f"data.path={first}").run_dir
    saved(run_dir, dataset=first)
    if finished:
        run_dir.finished.touch()
    before = run_dir.config.read_text()
    more = ["phases.1.duration.tokens=50000"] if longer else []
    with pytest.raises(DataError, match="dataset changed since the run was started"):
        prepare(tmp_path, f"data.path={second}", *more)
    assert run_dir.config.read_text() == before and run_dir.finished.exists() == finished
    moved = tmp_path / "moved"
    shutil.copytree(first, moved)
    assert prepare(tmp_path, f"data.path={moved}", *more).is_finished == (finished and not longer)


def test_a_finished_run_without_checkpoints_asked_for_with_data_elsewhere_is_refused(tmp_path: Path) -> None:
    prepare(tmp_path).run_dir.finished.touch()
    assert prepare(tmp_path).is_finished
    with pytest.raises(UserError, match="no checkpoint tells whether they are the same"):
        prepare(tmp_path, "data.path=elsewhere")


@pytest.mark.parametrize("finished", [True, False])
def test_a_config_file_edited_behind_the_checkpoint_is_not_what_was_trained(
    datasets: list[str], tmp_path: Path, finished: bool
) -> None:
    given = f"data.path={datasets[0]}"
    run_dir = prepare(tmp_path, given).run_dir
    saved(run_dir, dataset=datasets[0])
    if finished:
        run_dir.finished.touch()
    run_dir.config.write_text(run_dir.config.read_text().replace("seed: 1234", "seed: 7"))
    with pytest.raises(UserError) as caught:
        prepare(tmp_path, given, "seed=7")
    assert "seed: 1234 -> 7" in caught.value.problems[0]
