"""An objective in a file of its own: some tokens count, unevenly over rows, and no layout changes what is learnt."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, hierlm

OBJECTIVE = '''
"""A seventh of the tokens are to be foretold, and most of them in a few rows."""

from typing import Literal

from hierlm.objectives import next_token
from hierlm.objectives.config import ObjectiveConfig
from hierlm.objectives.next_token import Totals

PLUGIN = "objective.some_tokens"
INPUTS, SEES, HEADLINE, LOWER_IS_BETTER = {}, "past", "loss", True


class Config(ObjectiveConfig):
    name: Literal["some_tokens"] = "some_tokens"
    share: float = 0.15


def batch(rows, config, *, seed):
    import torch

    from hierlm.nn.draws import keyed_seed

    made = next_token.batch(rows, config, seed=seed)
    counts = []
    for sample in rows.samples.tolist():
        generator = torch.Generator().manual_seed(keyed_seed("some_tokens", seed, rows.data_pass, sample))
        chance = config.share * (3.0 if sample % 4 == 0 else 1 / 3)
        drawn = torch.rand(2, made.targets.shape[1], generator=generator)
        counts.append(torch.where(drawn[0] < chance, drawn[1], 0.0))
    return made._replace(weights=torch.stack(counts))
'''


@pytest.mark.slow
def test_losses_and_norms_are_equal_whatever_the_layout(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "some_tokens.py").write_text(OBJECTIVE)
    raw = yaml.safe_load((ROOT / "configs" / "tiny" / "transformer.yaml").read_text())
    curve = {"peak": 0.01, "decay": "constant"}
    sizes = {"duration": {"steps": 3}, "global_batch_size": 8, "sequence_length": 32}
    raw["phases"][0] |= {**sizes, "learning_rate": curve}
    raw |= {"data": {"path": str(tiny_dataset)}, "tracking": {"uri": "none"}, "objective": {"name": "some_tokens"}}
    raw["train"] = {"precision": "fp32", "log_every": {"steps": 1}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    alone = trained(tmp_path, "alone", "parallel.micro_batch_size=8")
    assert len(alone) == 3
    for name, words in {
        "small": ["parallel.micro_batch_size=1"],
        "dp": ["parallel.data_parallel_degree=2", "parallel.micro_batch_size=2"],
        "pp": ["parallel.pipeline_parallel_degree=2", "parallel.zero_stage=0", "parallel.micro_batch_size=2"],
    }.items():
        for found, expected in zip(trained(tmp_path, name, *words), alone, strict=True):
            assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5), name
            assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4), name


def trained(folder: Path, name: str, *words: str) -> list[dict[str, Any]]:
    """Its steps' records."""
    hierlm("train", "config.yaml", "--plugin", "some_tokens.py", f"name={name}", *words, cwd=folder)
    lines = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == "train"]
