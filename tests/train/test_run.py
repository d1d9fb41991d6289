"""How an attempt ends when what it has to leave behind cannot be written."""

import resource
import signal
from pathlib import Path

import pytest

from hierlm.config.load import load_config
from hierlm.run_dir import RunDir
from launcher.prepare_run import prepare_run
from tests.conftest import ROOT
from tests.distributed.spawn import run_ranks

PHASES = (
    "phases=[{name: a, duration: {steps: 2}, sequence_length: 16, global_batch_size: 2, learning_rate: {peak: 0.001}},"
    " {name: b, duration: {steps: 1}}]"
)
SMALL = [
    PHASES,
    "model.num_layers=1",
    "model.hidden_dim=32",
    "model.num_heads=2",
    "model.ffn_dim=32",
    "train.eval_rows=2",
    "tracking.uri=none",
]
LARGEST_FILE_BYTES = 60_000
"""What is said and measured fits; a checkpoint's weights do not."""


def attempt(run: str, until: str | None, room: bool) -> str:
    """On one rank: the exit code of an attempt, or what ended it; without `room` no large file can be written."""
    from hierlm.errors import LostRunError
    from hierlm.train.record.console import Console
    from hierlm.train.run import run as train

    run_dir = RunDir(Path(run))
    if not room:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE_BYTES, LARGEST_FILE_BYTES))
    try:
        return str(train(run_dir, console=Console(None, copy_to=run_dir.console_log), until_phase=until))
    except LostRunError as error:
        return str(error)


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", ["true", "false"])
def test_a_phase_whose_last_save_fails_is_a_failure_and_the_next_attempt_makes_up_for_it(
    asynchronous: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    more = [f"data.path={tiny_dataset}", f"run_root={tmp_path}", "name=full", f"checkpoint.asynchronous={asynchronous}"]
    config = load_config(ROOT / "configs" / "tiny" / "transformer.yaml", [*SMALL, *more])
    run = prepare_run(config, command_line=["test"]).run_dir
    (end,) = run_ranks(attempt, 1, str(run.path), "a", False)
    assert end.startswith("the state after step 2 could not be saved"), end
    said = run.console_log.read_text()
    assert "warning: the checkpoint of step 2 was not saved" in said and "the next job goes on" not in said
    assert run_ranks(attempt, 1, str(run.path), "a", True) == ["0"]
    (end,) = run_ranks(attempt, 1, str(run.path), None, False)
    assert end.startswith("the checkpoint of step 3 was not saved"), end
    assert not run.finished.exists()
    assert run_ranks(attempt, 1, str(run.path), None, True) == ["0"]
    assert run.finished.exists()
