"""Bits per byte of a dataset whose tokenizer changes text are of the bytes that its tokens hold, and this is said."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from hierlm.config.load import load_config
from hierlm.run_dir import RunDir
from launcher.prepare_run import prepare_run
from tests.conftest import ROOT
from tests.data_pipeline.making import prepared, stream_text
from tests.distributed.spawn import run_ranks

TEXT = "SOME text that a Tokenizer makes lower case, ~ and shorter\n" * 300
SMALL = [
    "phases=[{name: a, duration: {steps: 2}, sequence_length: 16, global_batch_size: 2, learning_rate: {peak: 0.001}}]",
    "model={arch: transformer, vocab_size: 300, num_layers: 1, hidden_dim: 32, num_heads: 2, ffn_dim: 32}",
    "train.eval_rows=2",
    "tracking.uri=none",
]


def lossy_tokenizer() -> str:
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("~ ", "")])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT.splitlines(keepends=True),
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False),
    )
    return str(made.to_str())


def trained_and_evaluated(run: str) -> list[dict[str, Any]]:
    from hierlm.inference.evaluate import evaluate_run
    from hierlm.train.record.console import Console
    from hierlm.train.run import run as train

    run_dir = RunDir(Path(run))
    assert train(run_dir, console=Console(None, copy_to=run_dir.console_log)) == 0
    return evaluate_run(run_dir.path, split="valid", checkpoint=None, progress=lambda done, total: None)


@pytest.mark.slow
def test_bits_are_of_the_bytes_that_tokens_hold_and_this_is_said(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(lossy_tokenizer())
    prepared(
        tmp_path / "d", TEXT.encode(), splits="valid=0.2", tokenizer="huggingface", workers=1, allow_lossy=True,
        tokenizer_model=tmp_path / "tokenizer.json",
    )  # fmt: skip
    more = [f"data.path={tmp_path / 'd'}", f"run_root={tmp_path}", "name=lossy"]
    config = load_config(ROOT / "configs" / "tiny" / "transformer.yaml", [*SMALL, *more])
    run = prepare_run(config, command_line=["test"]).run_dir
    ((record,),) = run_ranks(trained_and_evaluated, 1, str(run.path))
    assert "bits per byte are of what its tokens decode to" in run.console_log.read_text()
    tokens = json.loads((tmp_path / "d/dataset.json").read_text())["splits"]["valid"]["tokens"]
    held = len(stream_text(tmp_path / "d", "valid"))
    assert held < 0.2 * len(TEXT)
    assert record["lossy"] is True
    assert record["bits_per_byte"] == pytest.approx(record["loss"] * tokens / held / math.log(2))
