"""A shard that is not what dataset.json says ends a run: before its first step, or as soon as that is known."""

from pathlib import Path

import pytest

from data_pipeline.config import DataConfig
from data_pipeline.errors import DataError
from hierlm.config.load import load_config
from hierlm.run_dir import RunDir
from launcher.prepare_run import prepare_run
from tests.conftest import ROOT, hierlm
from tests.data_pipeline.making import prepared
from tests.distributed.spawn import run_ranks

TEXT = b"some text to learn from, a line of it\n" * 3000
SMALL = [
    "phases=[{name: a, duration: {steps: 4}, sequence_length: 16, global_batch_size: 2, learning_rate: {peak: 0.001}}]",
    "model.num_layers=1",
    "model.hidden_dim=32",
    "model.num_heads=2",
    "model.ffn_dim=32",
    "train.eval_rows=2",
    "tracking.uri=none",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepared(tmp_path / "d", TEXT, splits="valid=0.1", shard_tokens=20_000)
    return tmp_path / "d"


def overwrite(shard: Path) -> None:
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)


def arguments(folder: Path, tmp_path: Path, *more: str) -> list[str]:
    return [*SMALL, f"data.path={folder}", f"run_root={tmp_path / 'runs'}", "name=run", *more]


def made_run(folder: Path, tmp_path: Path, *more: str) -> RunDir:
    config = load_config(ROOT / "configs" / "tiny" / "transformer.yaml", arguments(folder, tmp_path, *more))
    return prepare_run(config, command_line=["test"]).run_dir


def attempt(run: str) -> tuple[str, str]:
    """On one of several ranks: the exit code, or the kind of what ended the attempt and its words."""
    from hierlm.errors import LostRunError
    from hierlm.train.record.console import Console
    from hierlm.train.run import run as train

    run_dir = RunDir(Path(run))
    try:
        return str(train(run_dir, console=Console(None, copy_to=run_dir.console_log))), ""
    except (LostRunError, ValueError) as error:
        return type(error).__name__, str(error)


@pytest.mark.slow
@pytest.mark.distributed
def test_damage_found_beside_training_ends_it_on_all_ranks_before_its_last_state_is_saved(folder, tmp_path):
    run = made_run(folder, tmp_path, "parallel.data_parallel_degree=2", "parallel.micro_batch_size=1")
    shard = folder / "train/shard-000003.tar"
    whole = shard.read_bytes()
    overwrite(shard)
    ends = run_ranks(attempt, 2, str(run.path))
    assert {kind for kind, _ in ends} == {"LostRunError"}
    assert len({words for _, words in ends}) == 1 and f"{shard}: damaged" in ends[0][1] and "\n" not in ends[0][1]
    assert not run.finished.exists() and not list(run.checkpoints.glob("step-00000004"))
    again = run_ranks(attempt, 2, str(run.path))  # as a job does that is put back into the queue
    assert {kind for kind, _ in again} == {"DataError"} and f"{shard}: damaged" in again[0][1]
    shard.write_bytes(whole)
    assert run_ranks(attempt, 2, str(run.path)) == [("0", "")] * 2


@pytest.mark.slow
def test_the_command_says_it_in_one_line_and_by_its_exit_code_when(folder, tmp_path):
    shard = folder / "train/shard-000002.tar"
    overwrite(shard)
    config = ROOT / "configs" / "tiny" / "transformer.yaml"
    done = hierlm("train", config, *arguments(folder, tmp_path), cwd=tmp_path, check=False)
    told = [line for line in (done.stdout + done.stderr).splitlines() if f"{shard}: damaged" in line]
    assert done.returncode == 1 and len(told) == 1 and "Traceback" not in done.stdout + done.stderr
    (folder / "verified.jsonl").unlink()
    words = arguments(folder, tmp_path, "name=before", "data.verify=before")
    done = hierlm("train", config, *words, cwd=tmp_path, check=False)
    told = [line for line in done.stderr.splitlines() if "error" in line]
    assert done.returncode == 2 and len(told) == 1 and f"{shard}: damaged" in told[0]
    assert not RunDir(tmp_path / "runs/before").metrics.exists()


@pytest.mark.parametrize("verify", ["background", "before", "never"])
def test_when_a_run_looks_is_its_configs_choice(folder, verify):
    from hierlm.checkpoint.team import ALONE
    from hierlm.parallel.process import read_environment
    from hierlm.train.watch.shards import Shards
    from hierlm.train.watch.signals import StopRequest

    overwrite(folder / "train/shard-000002.tar")
    shards = Shards(DataConfig(path=str(folder), verify=verify), process=read_environment(), team=ALONE)
    stop, said = StopRequest(), []
    if verify == "before":
        with pytest.raises(DataError, match=r"shard-000002\.tar: damaged"):
            shards.look(stop, say=said.append)
        return
    shards.look(stop, say=said.append)
    shards.go_on_beside(stop)
    assert shards.finish() is None and said == []
    assert bool(stop._damage()) == (verify == "background")
    (folder / "train/shard-000000.tar").unlink()
    again = Shards(DataConfig(path=str(folder), verify=verify), process=read_environment(), team=ALONE)
    if verify == "background":
        with pytest.raises(DataError) as error:
            again.look(stop, say=said.append)
        assert len(error.value.problems) == 2  # the missing one, and the one that is known to be damaged
    else:
        again.look(stop, say=said.append)
    shards.close()
