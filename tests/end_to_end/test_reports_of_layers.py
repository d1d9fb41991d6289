"""What a layer on the second of three stages reports arrives everywhere a number of the run does, by its name.

The whole of `hierlm.train.run` in real processes, with documents from the loader, and MLflow on a real database.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.read.loader import EvaluationRows, open_split
from hierlm import models
from hierlm.config.load import load_config
from hierlm.report.run_record import load_run
from hierlm.report.run_report import document, run_page, text
from launcher.prepare_run import prepare_run
from tests.conftest import ROOT
from tests.data_pipeline.making import prepared
from tests.distributed.architectures import FOLDER, known
from tests.distributed.spawn import run_ranks

LENGTH, ROWS, STEPS = 16, 8, 3
REPORTED = ["loss/probe", "loss/total", "hidden_size", "newlines", "token_entropy"]
WORDS = [
    "model.arch=reporting",
    "model.num_layers=1",
    "model.hidden_dim=16",
    "model.num_heads=2",
    "model.ffn_dim=24",
    f"phases.0.sequence_length={LENGTH}",
    f"phases.0.global_batch_size={ROWS}",
    f"phases.0.duration.steps={STEPS}",
    "phases.0.learning_rate.warmup.steps=1",
    "train.log_every.steps=1",
    "train.eval_rows=null",
    "train.precision=fp32",
    "checkpoint.every.steps=100",
]


def attempt(run_dir: str, console: str) -> int:
    known()
    from hierlm.run_dir import RunDir
    from hierlm.train.record.console import Console
    from hierlm.train.run import run

    with open(console, "a", encoding="utf-8") as file:
        return run(RunDir(Path(run_dir)), console=Console(file))


def trained(folder: Path, name: str, *words: str, world_size: int) -> Path:
    """A finished run; what it said is in `<folder>/<name>.log`."""
    overrides = [*WORDS, *words, f"data.path={folder / 'data'}", f"run_root={folder}", f"name={name}"]
    config = load_config(ROOT / "configs" / "tiny" / "transformer.yaml", overrides)
    run = prepare_run(config, command_line=[]).run_dir.path
    assert run_ranks(attempt, world_size, str(run), str(folder / f"{name}.log")) == [0] * world_size
    return run


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for line in lines if (record := json.loads(line))["kind"] == kind]


@pytest.mark.slow
@pytest.mark.distributed
def test_losses_and_metrics_of_the_second_of_three_stages_are_in_every_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "__path__", [*models.__path__, FOLDER])
    prepared(tmp_path / "data", b"one line\nanother\n\nnext document\nof three\n\n" * 150, splits="valid=0.2")
    uri = f"tracking={{uri: 'sqlite:///{tmp_path}/mlflow.db', experiment: reports}}"
    cut = ["parallel.pipeline_parallel_degree=3", "parallel.stage_cut=[2,4]", "parallel.micro_batch_size=2"]
    staged = trained(tmp_path, "staged", *cut, uri, world_size=3)
    alone = trained(tmp_path, "alone", "tracking.uri=none", world_size=1)

    for kind, number in (("train", STEPS), ("eval", 1)):
        ours, theirs = records(staged, kind), records(alone, kind)
        assert len(ours) == len(theirs) == number
        for one, other in zip(ours, theirs, strict=True):
            assert [one[name] for name in (*REPORTED, "loss")] == pytest.approx(
                [other[name] for name in (*REPORTED, "loss")], rel=1e-5
            )
            assert one["loss/total"] == pytest.approx(one["loss"] + 0.5 * one["loss/probe"], rel=1e-12)
    [evaluation] = records(staged, "eval")
    assert evaluation["newlines"] == newlines_of(tmp_path / "data")

    said = (tmp_path / "staged.log").read_text()
    assert all(line.count(f" {name} ") == 1 for name in REPORTED for line in said.splitlines() if "loss " in line)
    assert "eval step 3" in said

    from hierlm.tracking.mlflow import runs_at_tracker  # seconds, which every worker would spend when it collects

    [tracked] = runs_at_tracker(f"sqlite:///{tmp_path}/mlflow.db", experiment="reports")
    for kind in ("train", "eval"):
        sent = [record for record in tracked.records if record["kind"] == kind]
        for name in REPORTED:
            assert [record[name] for record in sent] == [record[name] for record in records(staged, kind)]

    run = load_run(staged)
    shown = document(run, balance=None)["reported"]
    assert list(shown["train"]) == list(shown["valid"]) and sorted(shown["train"]) == sorted(REPORTED)
    assert shown["valid"]["newlines"] == evaluation["newlines"]
    assert all(f"training {name} " in text(run, balance=None) for name in REPORTED)
    assert all(name in run_page(run, balance=None) for name in REPORTED)


def newlines_of(data: Path) -> float:
    """In the tokens that the whole valid split shows a model, padding left out, which is no newline."""
    rows = EvaluationRows(open_split(data, "valid"), sequence_length=LENGTH)
    return float((rows.read(range(len(rows))).tokens == ord("\n")).sum())


def test_an_input_that_nothing_can_make_is_told_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    from hierlm.errors import UserError
    from hierlm.nn.input_spec import InputSpec
    from hierlm.train.loaded_inputs import require_inputs

    monkeypatch.setattr(models, "__path__", [*models.__path__, FOLDER])
    config = load_config(ROOT / "configs" / "tiny" / "transformer.yaml", WORDS).model
    require_inputs(config)
    monkeypatch.setattr(models.architecture("reporting"), "INPUTS", {"path": InputSpec(per="row", width=3)})
    with pytest.raises(UserError, match="reporting reads path beside the tokens, which no data set has"):
        require_inputs(config)


def test_decoding_from_a_cache_hands_layers_the_inputs_of_new_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    from hierlm.models.decoding import Decoder

    monkeypatch.setattr(models, "__path__", [*models.__path__, FOLDER])
    config = load_config(ROOT / "configs" / "tiny" / "transformer.yaml", WORDS).model
    model = models.from_config({"model": config.model_dump()}, seed=3).double().eval()
    text = torch.randint(9, 12, (2, 14), generator=torch.Generator().manual_seed(0))
    own = torch.arange(14).repeat(2, 1) // 3
    for inputs in ({}, {"documents": own}):
        with torch.no_grad():
            whole, _ = model(text, **inputs)
            decoder, cuts = Decoder(model), [0, 5, 6, 7, 14]
            parts = [
                decoder.extend(text[:, a:b], **{name: t[:, a:b] for name, t in inputs.items()})
                for a, b in pairwise(cuts)
            ]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole)
        assert not torch.equal(whole, model(text, documents=torch.zeros_like(text))[0])
