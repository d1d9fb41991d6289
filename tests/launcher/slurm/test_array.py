"""Sweeps and chains before Slurm sees them."""

from pathlib import Path

import pytest

from hierlm.errors import UserError
from hierlm.phases.config import Duration, LearningRateConfig, PhaseConfig
from hierlm.run_dir import RunDir
from launcher.slurm.array import members, sweep_runs, write_sweep
from launcher.slurm.chain import phase_links, slice_links, submit_chain
from launcher.slurm.job_history import read_history
from launcher.submit.sweep import load_members, render_array, shape_problems
from tests.config.making import write
from tests.launcher.making import job
from tests.launcher.slurm.test_client import Answers


def test_a_sweep_is_every_combination_in_order() -> None:
    found = members("base", ["optim.betas=[0.9,0.95],[0.8,0.9]", "seed=1,2"])
    assert [member.name for member in found] == [
        "base-betas0.9_0.95-seed1",
        "base-betas0.9_0.95-seed2",
        "base-betas0.8_0.9-seed1",
        "base-betas0.8_0.9-seed2",
    ]
    assert found[1].overrides == ("optim.betas=[0.9,0.95]", "seed=2", "tracking.sweep=base")


def test_every_member_knows_its_sweep_and_how_many_there_are(tmp_path: Path) -> None:
    base, configs = load_members(write(tmp_path), [], ["seed=1,2,3"])
    assert [(c.name, c.tracking.sweep, c.tracking.sweep_size) for c in configs] == [
        (f"{base}-seed{seed}", base, 3) for seed in (1, 2, 3)
    ]


def test_keys_that_end_alike_are_named_in_full() -> None:
    names = [member.name for member in members("b", ["phases.0.global_batch_size=4", "phases.1.global_batch_size=8"])]
    assert names == ["b-phases.0.global_batch_size4-phases.1.global_batch_size8"]


@pytest.mark.parametrize("values", ["{a: 1},{a: +1}", ",".join("v" * 130 + str(n) for n in range(2))])
def test_names_that_would_clash_or_be_too_long_are_numbers(values: str) -> None:
    assert [member.name for member in members("b", [f"model.x={values}"])] == ["b-000", "b-001"]


@pytest.mark.parametrize("axis", ["seed", "=1,2", "seed=", "seed=1,,2"])
def test_a_bad_axis_is_told(axis: str) -> None:
    with pytest.raises(UserError, match=r"--array: given .*, allowed: KEY=V1,V2"):
        members("b", [axis])


def test_a_key_given_twice_is_told() -> None:
    with pytest.raises(UserError, match="seed given twice"):
        members("b", ["seed=1", "seed=2"])


def test_the_array_script_hands_each_task_its_members_own_script(tmp_path: Path) -> None:
    runs = [RunDir(tmp_path / name) for name in ("it's", "b")]
    script = render_array("sweep", job(runs[0].path), runs, at_once=3)
    assert "#SBATCH --array=0-1%3\n#SBATCH --job-name=sweep\n#SBATCH --output=/dev/null\n" in script
    assert script.count("--job-name") == script.count("--output") == 1
    assert f"""    '{tmp_path}/it'"'"'s'\n    {tmp_path}/b\n""" in script
    assert script.endswith('exec bash "$run_dir/job.sbatch"\n')


def test_members_of_different_shapes_are_refused(tmp_path: Path) -> None:
    shapes = [job(tmp_path, name="a"), job(tmp_path, name="b", num_nodes=3)]
    (problem,) = shape_problems(shapes)
    assert "a needs 2 x 4; b needs 3 x 4" in problem
    assert shape_problems([shapes[0], shapes[0]]) == []


def test_a_sweep_knows_its_members(tmp_path: Path) -> None:
    write_sweep(tmp_path / "s.sweep", [RunDir(tmp_path / "a"), RunDir(tmp_path / "b")])
    assert sweep_runs(tmp_path / "s.sweep") == [RunDir(tmp_path / "a"), RunDir(tmp_path / "b")]
    assert sweep_runs(tmp_path) is None


def phase(name: str) -> PhaseConfig:
    rate = LearningRateConfig(peak=1.0)
    return PhaseConfig(
        name=name, duration=Duration(steps=1), sequence_length=1, global_batch_size=1, learning_rate=rate
    )


def test_a_chain_stops_at_each_phase_but_the_last() -> None:
    links = phase_links([phase("a"), phase("b"), phase("c")])
    assert [link.arguments for link in links] == [("--until", "a"), ("--until", "b"), ()]
    assert {link.dependency for link in links} == {"afterok"}


def test_each_link_waits_for_the_one_before(tmp_path: Path) -> None:
    run, sbatch = RunDir(tmp_path), Answers(sbatch="5\n")
    assert submit_chain(run, slice_links(2), run_command=sbatch) == ["5", "5"]
    script = str(run.job_script)
    assert sbatch.commands == [
        ["sbatch", "--parsable", script],
        ["sbatch", "--parsable", "--dependency=afterany:5", "--kill-on-invalid-dep=yes", script],
    ]
    assert [event["part"] for event in read_history(run)] == ["slice 1 of 2", "slice 2 of 2"]
