"""An objective in a file of its own: some tokens count, unevenly over rows, and no layout changes what is learnt.

Runs are compared by a metric of its own, of which more is better.
"""

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

PLUGIN = "objective.some_tokens"
INPUTS, SEES, HEADLINE, LOWER_IS_BETTER = {}, "past", "hit_rate", False


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


def units(loss, of):
    return {}


class Totals:
    def __init__(self):
        import torch

        self.sums = torch.zeros(4, dtype=torch.float64)

    def add(self, nats, batch):
        import torch

        counts, weights = batch.weights > 0, batch.weights.double()
        hit = counts & (nats.cpu() < 4.0)
        self.sums += torch.stack([(weights * nats.cpu()).sum(), weights.sum(), hit.sum(), counts.sum()])

    @staticmethod
    def metrics(sums, of):
        nats, weight, hits, tokens = sums.tolist()
        return {"loss": nats / weight, "hit_rate": hits / tokens, "tokens": int(tokens)}
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
        "dp": ["parallel.data_parallel_degree=2", "parallel.micro_batch_size=1"],
        "pp": ["parallel.pipeline_parallel_degree=2", "parallel.zero_stage=0", "parallel.micro_batch_size=2"],
    }.items():
        for found, expected in zip(trained(tmp_path, name, *words), alone, strict=True):
            assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5), name
            assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4), name
            assert not found.keys() & {"bits_per_byte", "perplexity"}
        (evaluated,) = records(tmp_path, name, kind="eval")
        assert evaluated["hit_rate"] == pytest.approx(records(tmp_path, "alone", kind="eval")[0]["hit_rate"], abs=0.01)
    trained(tmp_path, "untaught", "parallel.micro_batch_size=8", "phases.0.learning_rate.peak=1e-9")
    judged_by_its_headline(tmp_path)


def judged_by_its_headline(folder: Path) -> None:
    """By compare, report and eval; without the file of the objective by the loss, which there always is."""
    of = {name: records(folder, name, kind="eval")[-1]["hit_rate"] for name in ("alone", "untaught")}
    assert of["alone"] > of["untaught"]
    for plugin, quality in (["--plugin", "some_tokens.py"], "hit_rate"), ([], "loss"):
        rows = document("compare", "hierlm", *plugin, "--json", cwd=folder)["rows"]
        assert (rows[-1]["run"], rows[-1]["headline"]) == ("untaught", quality)
    text = hierlm("compare", "hierlm", "--plugin", "some_tokens.py", cwd=folder).stdout
    assert "hit_rate" in text.splitlines()[0] and "bits/byte" not in text
    told = document("report", "runs/alone", "--plugin", "some_tokens.py", "--json", cwd=folder)["measures"]
    assert told["hit_rate"] == of["alone"] and told["headline"] == "hit_rate"
    again = document("eval", "runs/alone", "--plugin", "some_tokens.py", "--json", cwd=folder)
    assert again["hit_rate"] == pytest.approx(of["alone"], abs=0.01) and "perplexity" not in again


def document(*words: str, cwd: Path) -> Any:
    return json.loads(hierlm(*words, cwd=cwd).stdout)


def trained(folder: Path, name: str, *words: str) -> list[dict[str, Any]]:
    """Its steps' records."""
    hierlm("train", "config.yaml", "--plugin", "some_tokens.py", f"name={name}", *words, cwd=folder)
    return records(folder, name, kind="train")


def records(folder: Path, name: str, *, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]
