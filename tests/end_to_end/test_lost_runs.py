"""A run that has lost its numbers ends with 1 and one line, keeps what was good, and is never called finished."""

import json
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor

from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_records
from tests.conftest import ROOT, hierlm
from tests.distributed.spawn import run_ranks

SMALL = [
    "model.num_layers=2",
    "model.hidden_dim=16",
    "model.num_heads=2",
    "model.ffn_dim=32",
    "train.log_every.steps=1",
    "train.eval_rows=4",
    "tracking.uri=none",
]
TWO_PHASES = (
    "phases=[{{name: a, duration: {{steps: 3}}, sequence_length: 32, global_batch_size: 4,"
    " learning_rate: {{peak: 0.001, final: 0.001, decay: constant}}}},"
    " {{name: b, duration: {{steps: {steps}}}, learning_rate: {{peak: {peak}, final: {peak}, decay: constant}}}}]"
)


def refused(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=refused)


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 100])
def test_weights_that_overflow_end_the_run_and_the_good_checkpoint_stays(
    every: int, tiny_dataset: Path, tmp_path: Path
) -> None:
    config, phases = ROOT / "configs" / "tiny" / "transformer.yaml", TWO_PHASES.format(steps=30, peak="1.0e+38")
    settings = [f"data.path={tiny_dataset}", "name=lost", *SMALL, phases, f"checkpoint.every.steps={every}"]
    done = hierlm("train", config, *settings, "checkpoint.keep=1", "--json", cwd=tmp_path, check=False)
    run = RunDir(tmp_path / "runs" / "lost")
    said = run.console_log.read_text().splitlines()
    assert done.returncode == 1 and strict(done.stdout)["state"] == "failed"
    failures = [line for line in said if line.startswith("failed: ")]
    assert len(failures) == 1 and "not finite" in failures[0], said
    assert not run.finished.exists()
    assert max(path.name for path in run.checkpoints.iterdir() if path.is_dir()) == "step-00000003"
    records = [strict(line) for line in run.metrics.read_text().splitlines()]
    lost = [record for record in records if record["kind"] == "train" and record["loss"] is None]
    if every > 1:  # nothing was to be saved on the way: ten in a row
        assert [record["skipped_steps"] for record in lost] == list(range(1, 11))
        assert "10 steps in a row" in failures[0]
    for verb in ("status", "report", "eval"):
        strict(hierlm(verb, "runs/lost", "--json", cwd=tmp_path).stdout)


def train_with_spoilt_gradients(run: str, spoilt: list[int], until: str | None) -> str:
    """On one rank: an attempt in which the gradients of some steps hold a NaN; how it ended."""
    from hierlm.errors import LostRunError
    from hierlm.parallel.engine import Engine
    from hierlm.train import run as attempt
    from hierlm.train.record.console import Console

    trained = Engine.train_step

    def train_step(engine: Engine, *rows: Tensor, moment: Any, **more: Any) -> Any:
        weight = list(engine.module.parameters())[-1]
        hook = weight.register_hook(lambda gradient: gradient * torch.nan) if moment.step in spoilt else None
        result = trained(engine, *rows, moment=moment, **more)
        if hook is not None:
            hook.remove()
        return result

    Engine.train_step = train_step  # type: ignore[method-assign]
    try:
        return str(attempt.run(RunDir(Path(run)), console=Console(None), until_phase=until))
    except LostRunError as error:
        return str(error)


@pytest.mark.slow
def test_the_counts_of_skipped_steps_go_on_where_the_attempt_before_left_them(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    from hierlm.config.load import load_config
    from launcher.prepare_run import prepare_run

    settings = [
        f"data.path={tiny_dataset}",
        f"run_root={tmp_path}",
        "name=counts",
        *SMALL,
        TWO_PHASES.format(steps=5, peak="0.001"),
        "train.max_skipped_steps=4",
    ]
    config = load_config(ROOT / "configs" / "tiny" / "transformer.yaml", settings)
    run = prepare_run(config, command_line=["test"]).run_dir
    assert run_ranks(train_with_spoilt_gradients, 1, str(run.path), [1, 2], "a") == ["0"]
    (end,) = run_ranks(train_with_spoilt_gradients, 1, str(run.path), [3, 4], None)
    assert end.startswith("step 5: ") and "4 steps in a row" in end and "4 in all" in end
    counts = [record["skipped_steps"] for record in read_records(run.metrics) if record["kind"] == "train"]
    assert counts == [0, 1, 2, 3, 4]
    assert not run.finished.exists()
    assert run_ranks(train_with_spoilt_gradients, 1, str(run.path), [3], None) == ["0"]
    counts = [record["skipped_steps"] for record in read_records(run.metrics) if record["kind"] == "train"]
    assert counts == [0, 1, 2, 3, 3, 3, 3, 3]
    assert run.finished.exists()
