"""A text is continued the way its model says, and arrives whole."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hierlm.inference.generate import sample
from hierlm.inference.sampling import Sampling
from launcher.commands.generate import _stream
from tests.conftest import ROOT, hierlm, hierlm_path, quiet_environment
from tests.data_pipeline.making import prepared
from tests.inference.making import TEXT, dataset, loaded_run

STORY = "caf\u00e9 \U0001f600 \u3042".encode()  # characters of two, four and three bytes


@pytest.mark.parametrize("arch", ["transformer", "hourglass"])
def test_greedy_tokens_are_those_of_a_whole_pass_each(tmp_path: Path, arch: str) -> None:
    loaded = loaded_run(arch, dataset(tmp_path, TEXT), length=32)
    text = list(TEXT[:6])
    for token in sample(loaded, torch.tensor(text), max_tokens=8, sampling=Sampling(temperature=0), seed=0):
        with torch.no_grad():
            logits, _ = loaded.model(torch.tensor([text]))
        assert token == int(logits[0, -1].argmax())
        text.append(token)


def test_top_k_of_one_is_greedy_at_any_temperature(tmp_path: Path) -> None:
    loaded, prompt = loaded_run("transformer", dataset(tmp_path, TEXT)), torch.tensor(list(TEXT[:6]))
    drawn = [
        list(sample(loaded, prompt, max_tokens=20, sampling=sampling, seed=3))
        for sampling in (Sampling(temperature=0), Sampling(temperature=2.0, top_k=1), Sampling(top_p=1e-9))
    ]
    assert drawn[0] == drawn[1] == drawn[2]


def test_the_same_seed_draws_the_same_text_and_another_one_another(tmp_path: Path) -> None:
    loaded, prompt = loaded_run("lstm", dataset(tmp_path, TEXT)), torch.tensor(list(TEXT[:6]))
    drawn = [list(sample(loaded, prompt, max_tokens=30, sampling=Sampling(), seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def one_byte_at_a_time() -> Iterator[bytes]:
    for byte in STORY:
        yield bytes([byte])


def test_no_write_ends_within_a_character(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What has been written after each token is text by itself, and in the end all of it."""
    seen = b""

    def watched() -> Iterator[bytes]:
        nonlocal seen
        for piece in one_byte_at_a_time():
            yield piece
            seen += capfdbinary.readouterr().out
            seen.decode("utf-8")

    _stream("\u00e9: ".encode(), watched())
    assert seen + capfdbinary.readouterr().out == "\u00e9: ".encode() + STORY + b"\n"


def test_bytes_that_are_no_text_go_through_a_pipe_as_they_are(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    _stream(b"x", iter([b"\xff", b"a\xc3"]))
    assert capfdbinary.readouterr().out == b"x\xffa\xc3\n"


def test_a_terminal_gets_whole_characters_and_no_stray_bytes() -> None:
    parent, terminal = pty.openpty()
    story = STORY + b"\x9b\x1b[2J"
    code = f"from launcher.commands.generate import _stream\n_stream(b'>', (bytes([b]) for b in {story!r}))\n"
    subprocess.run([sys.executable, "-c", code], stdout=terminal, check=True, cwd=ROOT)
    os.close(terminal)
    assert os.read(parent, 1000) == b">" + STORY + "\ufffd\ufffd[2J".encode() + b"\r\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/small`: a Transformer-XL after two steps, from the console script."""
    root = tmp_path_factory.mktemp("trained")
    prepared(root / "data", TEXT * 20, splits="valid=0.2")
    settings = ["phases.0.duration.steps=2", "phases.0.sequence_length=32", "phases.0.learning_rate.warmup.steps=1"]
    more = ["tracking.uri=none", "name=small", "data.path=data"]
    hierlm("train", ROOT / "configs/tiny/transformer_xl.yaml", *settings, *more, cwd=root)
    return root


@pytest.mark.slow
def test_the_verbs_on_a_trained_run(trained: Path) -> None:
    plain = json.loads(hierlm("eval", "runs/small", "--json", "--per-position", cwd=trained).stdout)
    text = (TEXT * 20)[-(len(TEXT) * 4) :]
    assert plain["words"] == len(text.split()) and plain["tokens"] == len(text) - 1
    assert len(plain["loss_by_position"]) == 32
    short = hierlm("eval", "runs/small", "--memory-length", 0, "--sequence-length", 8, "--per-position", cwd=trained)
    line, _, *table = short.stdout.splitlines()
    assert "word perplexity" in line and f"loss {plain['loss']:.4f}" not in line
    assert [row.split()[0] for row in table] == ["0", "1", "2-3", "4-7"]
    words = [hierlm_path(), "generate", "runs/small", "--prompt", "line", "--max-tokens", "30", "--top-k", "5"]
    written = subprocess.run(words, cwd=trained, env=quiet_environment(), capture_output=True, check=True).stdout
    assert written.startswith(b"line") and len(written) == 4 + 30 + 1
