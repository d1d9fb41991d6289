"""Two sources with other bytes per token: what training, its evaluations and `hierlm eval` say of them."""

import json
import math
from pathlib import Path

import pytest
import yaml

from data_pipeline.loader import open_split
from tests.conftest import ROOT, hierlm
from tests.data_pipeline.making import prepared

SETTINGS = [
    "name=mixed",
    "model.vocab_size=280",
    "phases.0.duration.steps=4",
    "phases.0.sequence_length=32",
    "phases.0.learning_rate.warmup.steps=0",
    "train.precision=fp32",
    "train.log_every.steps=1",
    "train.eval_rows=null",
    "tracking.uri=none",
]


def sources(folder: Path) -> list[str]:
    model = {"tokenizer": "sentencepiece", "vocab_size": 280}
    prepared(folder / "words", b"some words are said again and again\n" * 300, splits="valid=0.2", **model)
    same = {"tokenizer": "sentencepiece", "tokenizer_model": folder / "words" / "tokenizer.model"}
    prepared(folder / "digits", b"3141592653589793\n2718281828459045\n" * 150, splits="valid=0.2", **same)
    return ["words", "digits"]


@pytest.mark.slow
def test_a_mixture_is_told_by_source_and_as_their_weighted_mean(tmp_path: Path) -> None:
    names = sources(tmp_path)
    data = "data={sources: [{path: words, weight: 0.7}, {path: digits, weight: 0.3}]}"
    hierlm("train", ROOT / "configs/tiny/transformer.yaml", *SETTINGS, data, cwd=tmp_path)
    run = tmp_path / "runs/mixed"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    bytes_per_token = [s.source_bytes / s.num_tokens for s in (open_split(tmp_path / n, "train") for n in names)]
    for step in (record for record in records if record["kind"] == "train"):
        found = step["loss"] / math.log(2) / step["bits_per_byte"]
        assert min(bytes_per_token) < found < max(bytes_per_token)
    valid = [record for record in records if record["kind"] == "eval"][-1]
    assert {name: each["weight"] for name, each in valid["sources"].items()} == {"words": 0.7, "digits": 0.3}
    told = json.loads(hierlm("eval", "runs/mixed", "--json", cwd=tmp_path).stdout)
    fields = ("loss", "perplexity", "bits_per_byte", "tokens")
    assert [told[f] for f in fields] == pytest.approx([valid[f] for f in fields], rel=1e-6)

    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["sources"].reverse()
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    back = json.loads(hierlm("eval", "runs/mixed", "--json", cwd=tmp_path).stdout)
    assert [back[f] for f in fields] == [told[f] for f in fields]
    assert [each["name"] for each in back["sources"]] == names[::-1]
    lines = hierlm("eval", "runs/mixed", cwd=tmp_path).stdout.splitlines()
    assert len(lines) == 3 and lines[-1].startswith("0.3 digits + 0.7 words (weights of phase ")
