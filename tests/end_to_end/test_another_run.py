"""What trained once under a name is not gone on with as something else, whoever asks."""

from pathlib import Path

import pytest

from hierlm.run_dir import RunDir
from tests.conftest import ROOT, hierlm
from tests.data_pipeline.making import prepared
from tests.end_to_end.attempts import attempt_elsewhere

SMALL = [
    "model.num_layers=1",
    "model.hidden_dim=16",
    "model.num_heads=2",
    "model.ffn_dim=32",
    "phases.0.duration.steps=5",
    "phases.0.sequence_length=32",
    "phases.0.global_batch_size=4",
    "train.eval_rows=4",
    "tracking.uri=none",
    "name=one",
]


@pytest.mark.slow
def test_a_finished_run_of_other_data_and_a_job_with_an_edited_config_are_refused(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    config = ROOT / "configs" / "tiny" / "transformer.yaml"
    hierlm("train", config, f"data.path={tiny_dataset}", *SMALL, cwd=tmp_path)
    run = RunDir(tmp_path / "runs" / "one")
    text = (ROOT / "README.md").read_bytes() * 4
    prepared(tmp_path / "other", text, splits="valid=0.1,test=0.1")
    done = hierlm("train", config, "data.path=other", *SMALL, cwd=tmp_path, check=False)
    assert done.returncode == 2 and "dataset changed" in done.stderr, done.stdout + done.stderr

    run.finished.unlink()  # as a job sees the run that was put back into the queue before its end
    before = run.metrics.read_bytes()
    run.config.write_text(run.config.read_text().replace("seed: 1234", "seed: 7"))
    (process,) = attempt_elsewhere(run.path, num_ranks=1, log=tmp_path / "log")
    assert process.wait(timeout=600) == 2
    said = (tmp_path / "log").read_text()
    assert "seed: 1234 -> 7" in said and "was edited since" in said, said
    assert run.metrics.read_bytes() == before
