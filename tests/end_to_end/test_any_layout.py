"""A run of any layout is evaluated and continued as text by one process, with the numbers training itself recorded."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, hierlm

LAYOUTS = {
    "hourglass": ["parallel.tensor_parallel_degree=2", "parallel.pipeline_parallel_degree=2"],
    "transformer_xl": ["parallel.data_parallel_degree=2", "parallel.zero_stage=3"],
}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("arch", LAYOUTS)
def test_evaluation_and_generation_work_from_any_layout(arch: str, tiny_dataset: Path, tmp_path: Path) -> None:
    short = ["phases.0.duration.steps=6", "phases.0.learning_rate.warmup.steps=2", "phases.0.global_batch_size=8"]
    short += ["train.precision=fp32", "train.eval_rows=null"]
    config = ROOT / "configs" / "tiny" / f"{arch}.yaml"
    hierlm("train", config, f"data.path={tiny_dataset}", "name=run", *short, *LAYOUTS[arch], cwd=tmp_path)
    records = [json.loads(line) for line in (tmp_path / "runs/run/metrics.jsonl").read_text().splitlines()]
    recorded = [record for record in records if record["kind"] == "eval"][-1]
    scored = json.loads(hierlm("eval", "runs/run", "--json", cwd=tmp_path).stdout)
    assert scored["loss"] == pytest.approx(recorded["loss"], rel=1e-4)
    assert scored["tokens"] == recorded["tokens"]
    text = hierlm("generate", "runs/run", "--prompt", "import ", "--max-tokens", "12", cwd=tmp_path).stdout
    assert text.startswith("import ") and len(text) > len("import ")
