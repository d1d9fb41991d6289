"""Images go the same way as text: prepare, train the published setting made small, evaluate in bits per dimension."""

import json
import math

import numpy as np
import PIL.Image
import pytest

from tests.conftest import ROOT, hierlm

SMALL = [
    "name=images",
    "model.hierarchy=1@1 1@3 1@1",
    "model.hidden_dim=16",
    "model.ffn_dim=32",
    "model.num_heads=1",
    "phases.0.duration.steps=2",
    "phases.0.global_batch_size=2",
    "phases.0.learning_rate.warmup.steps=1",
    "phases.1.duration.steps=2",
    "train.precision=fp32",
    "train.log_every.steps=1",
    "checkpoint.every.steps=4",
    "tracking.uri=none",
]


def pictures(folder, *, count=60):
    """Gradients of changing colour with a little noise, 32 x 32 pixels."""
    folder.mkdir()
    random, (y, x) = np.random.default_rng(1), np.mgrid[0:32, 0:32]
    for number in range(count):
        channels = [x * 7 + number, y * 5 + 2 * number, (x + y) * 3 + random.integers(0, 9, (32, 32))]
        PIL.Image.fromarray((np.stack(channels, axis=-1) % 256).astype(np.uint8)).save(folder / f"{number:03}.png")
    return folder


@pytest.mark.slow
def test_the_imagenet32_setting_trains_on_pictures_and_is_judged_in_bits_per_dimension(tmp_path):
    pictures(tmp_path / "pictures")
    hierlm("data", "prepare", "--kind", "images", "--input", "pictures", "--output", "images", cwd=tmp_path)
    assert "kind images, 32x32 pixels" in hierlm("data", "inspect", "images", cwd=tmp_path).stdout

    config = [str(ROOT / "configs/papers/hourglass/imagenet32.yaml"), "data.path=images", *SMALL]
    misaligned = hierlm("train", *config, "phases.0.sequence_length=3000", cwd=tmp_path, check=False)
    assert misaligned.returncode == 2 and "nearest: 3072" in misaligned.stderr
    hierlm("train", *config, cwd=tmp_path)
    records = [json.loads(line) for line in (tmp_path / "runs/images/metrics.jsonl").read_text().splitlines()]
    judged = [record for record in records if "loss" in record]
    assert {record["kind"] for record in judged} == {"train", "eval"}
    assert all(record["bits_per_dimension"] == pytest.approx(record["loss"] / math.log(2)) for record in judged)

    result = json.loads(hierlm("eval", "runs/images", "--split", "test", "--json", cwd=tmp_path).stdout)
    assert result["bits_per_dimension"] == pytest.approx(result["loss"] / math.log(2))
    assert result["tokens"] == 3 * 3072 - 1  # every byte is predicted once, but the very first
    assert "bits/dim" in hierlm("eval", "runs/images", cwd=tmp_path).stdout
    assert "bits/dim" in hierlm("report", "runs/images", cwd=tmp_path).stdout
    refused = hierlm("generate", "runs/images", "--prompt", "a", cwd=tmp_path, check=False)
    assert refused.returncode == 2 and "is images" in refused.stderr and len(refused.stderr.splitlines()) == 1
