"""Datasets and tokenizers of strangers, damaged or made to harm: taken or refused in one line; nothing else happens."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.errors import DataError
from data_pipeline.tokenize.tokenizer import tokenizer_from
from tests.conftest import ROOT, quiet_environment
from tests.data_pipeline.making import prepared

FILES = {"index": 250, "huggingface": 500, "sentencepiece": 500}
MANY = {"index": 7_000, "huggingface": 8_000, "sentencepiece": 8_000}
TEXT = b"some text to learn from, a line of it\n" * 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    options = {"tokenizer": "sentencepiece", "vocab_size": 300, "workers": 1, "shard_tokens": 1500}
    prepared(folder / "d", TEXT, splits="valid=0.1", **options)
    shutil.copy(folder / "d" / "dataset.json", folder)
    shutil.copy(folder / "d" / "tokenizer.model", folder)
    (folder / "tokenizer.json").write_text(json.dumps(huggingface()))
    return folder


def huggingface() -> dict:
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    made.train_from_iterator(TEXT.decode().splitlines(keepends=True), trainer)
    return json.loads(made.to_str())


def require_harmless(kind: str, folder: Path, *, seed: int, count: int) -> None:
    command = [sys.executable, "-m", "tests.data_pipeline.hostile", kind, str(folder), str(seed), str(count)]
    done = subprocess.run(
        command, cwd=ROOT, env=quiet_environment(), capture_output=True, text=True, errors="replace", check=False
    )
    last = done.stderr.splitlines()[-1:]
    assert done.returncode == 0, f"{kind}, seed {seed}: ended with {done.returncode} at {last}"
    found = json.loads(done.stdout)
    assert not found["wrong"], "\n".join(found["wrong"][:5])
    assert not found["seen"], found["seen"][:20]
    assert found["count"] == count and count / 3 < found["refused"] < count


@pytest.mark.parametrize("kind", FILES)
def test_what_is_read_is_taken_or_refused_in_one_line(folder, kind):
    require_harmless(kind, folder, seed=20, count=FILES[kind])


@pytest.mark.matrix
@pytest.mark.parametrize("kind", MANY)
def test_and_so_are_twenty_thousand(folder, kind):
    require_harmless(kind, folder, seed=2000, count=MANY[kind])


def test_the_watch_sees_what_it_should(folder, tmp_path):
    code = (
        "import sys, os, subprocess; from pathlib import Path; from tests.data_pipeline.hostile import Watch\n"
        "inside, outside = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "watch = Watch(inside)\n"
        "with watch.on():\n"
        "    (inside / 'a').write_text('a'); (inside / 'a').rename(inside / 'b'); (inside / 'b').unlink()\n"
        "assert not watch.seen, watch.seen\n"
        "with watch.on():\n"
        "    (outside / 'a').write_text('a'); (outside / 'a').rename(outside / 'b'); (outside / 'b').unlink()\n"
        "    subprocess.run(['true']); os.system('true')\n"
        "names = [line.split()[0] for line in watch.seen]\n"
        "assert {'open', 'os.rename', 'os.remove', 'subprocess.Popen', 'os.system'} <= set(names), names\n"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=quiet_environment(), check=True)


def test_numbers_without_a_token_make_no_table_of_billions(folder):
    described = json.loads((folder / "tokenizer.json").read_text())
    described["model"]["vocab"]["one more"] = 2**32 - 1
    with pytest.raises(DataError, match="numbered up to 4294967295"):
        tokenizer_from("huggingface", json.dumps(described).encode(), where="t")
