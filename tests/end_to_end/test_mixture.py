"""Two sources with other bytes per token: what training, its evaluations and `hierlm eval` say of them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.read.loader import open_split
from hierlm.inference.evaluate import evaluate_run, headline
from tests.conftest import ROOT, hierlm
from tests.data_pipeline.making import prepared

SETTINGS = [
    "model.vocab_size=280",
    "phases.0.duration.steps=4",
    "phases.0.sequence_length=32",
    "phases.0.learning_rate.warmup.steps=0",
    "train.precision=fp32",
    "train.log_every.steps=1",
    "train.eval_rows=null",
    "tracking.uri=none",
]

AS_TOLD: dict[str, Any] = {"split": "valid", "checkpoint": None, "progress": lambda done, total: None}


def sources(folder: Path) -> list[str]:
    model: dict[str, Any] = {"tokenizer": "sentencepiece", "vocab_size": 280, "workers": 1}
    prepared(folder / "words", b"some words are said again and again\n" * 300, splits="valid=0.2", **model)
    same: dict[str, Any] = {
        "tokenizer": "sentencepiece",
        "tokenizer_model": folder / "words" / "tokenizer.model",
        "workers": 1,
    }
    prepared(folder / "digits", b"3141592653589793\n2718281828459045\n" * 150, splits="valid=0.2", **same)
    return ["words", "digits"]


@pytest.mark.slow
def test_a_mixture_is_told_by_source_and_as_their_weighted_mean_in_whatever_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = sources(tmp_path)
    here = ("{path: words, weight: 0.7}", "{path: digits, weight: 0.3}")
    train(tmp_path, *here)
    train(tmp_path, *here[::-1], name="back")
    mixed, back = (records_of(tmp_path / "runs" / name) for name in ("mixed", "back"))
    numbers = ("loss", "perplexity", "bits_per_byte", "grad_norm", "tokens", "sources")
    assert [[r.get(n) for n in numbers] for r in mixed] == [[r.get(n) for n in numbers] for r in back]

    bytes_per_token = [s.source_bytes / s.num_tokens for s in (open_split(tmp_path / n, "train") for n in names)]
    drawn = [r["loss"] / math.log(2) / r["bits_per_byte"] for r in mixed if r["kind"] == "train"]
    low, high = min(bytes_per_token), max(bytes_per_token)
    assert all(low * (1 - 1e-9) <= found <= high * (1 + 1e-9) for found in drawn)
    assert any(low * 1.01 < found < high * 0.99 for found in drawn)
    valid = [record for record in mixed if record["kind"] == "eval"][-1]
    assert {name: each["weight"] for name, each in valid["sources"].items()} == {"words": 0.7, "digits": 0.3}

    told = [headline(evaluate_run(tmp_path / "runs" / name, **AS_TOLD)) for name in ("mixed", "back")]
    fields = ("loss", "perplexity", "bits_per_byte", "tokens")
    assert [told[0][f] for f in fields] == [told[1][f] for f in fields]
    assert [told[0][f] for f in fields] == pytest.approx([valid[f] for f in fields], rel=1e-6)
    lines = hierlm("eval", "runs/back", cwd=tmp_path).stdout.splitlines()
    assert len(lines) == 3 and lines[-1].startswith("0.3 digits + 0.7 words (weights of phase ")


def train(folder: Path, *weighted: str, name: str = "mixed") -> None:
    data = f"data={{sources: [{', '.join(weighted)}]}}"
    hierlm("train", ROOT / "configs/tiny/transformer.yaml", *SETTINGS, data, f"name={name}", cwd=folder)


def records_of(run: Path) -> list[dict[str, Any]]:
    """Those of training and evaluation."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] in ("train", "eval")]
