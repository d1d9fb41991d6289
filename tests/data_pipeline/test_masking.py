"""No secret of an input, an address or a command line is written or shown, and what is none stays as it is."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.masking import MASK, holds_secret, masked, masked_tree
from hierlm.errors import UserError

SECRET = "s3cr3t-X9"
SAID = [
    "https://me:{}@host/corpus.txt",
    "https://{}@host/corpus.txt",
    "postgresql+psycopg2://me:{}@db:5432/mlflow",
    "mysql://db/mlflow?user=me&password={}",
    "https://host/x.jsonl?token={}&part=1",
    "https://bucket.s3.amazonaws.com/x?X-Amz-Credential=AK&X-Amz-Signature={}",
    "pipe:curl -H 'Authorization: Bearer {}' https://host/x.jsonl",
    'pipe:curl --header "authorization:Basic {}" https://host/x',
    "pipe:curl -H 'X-Api-Key: {}' https://host/x",
    "pipe:curl -u me:{} https://host/x",
    "pipe:curl --user 'me:{}' https://host/x",
    "pipe:ANYTHING={} ./fetch",
    "pipe:cd /data && A='{} b' B={} ./fetch | zcat",
    "pipe:env MINE={} ./fetch",
    "AWS_SECRET_ACCESS_KEY={} aws s3 cp s3://b/x -",
    "hierlm data prepare --input 'pipe:fetch --token {}'",
    "export WANDB_API_KEY={}",
    "Password = {}",
    "https://user:{}@host:80/a https://other:{}@host/b",
]
PLAIN = [
    "hierlm data prepare --input corpus.txt --tokenizer bytes --shard-tokens 1000 --output d",
    "config.yaml: phases.0.duration: given tokens=5, allowed: steps or tokens",
    "abfss://container@account.dfs.core.windows.net/data",
    "s3://bucket/data/train.jsonl",
    "pipe:zstdcat x.zst | head -c 1000 | dd if=/dev/stdin bs=512",
    "sqlite:///runs/mlflow.db",
    "the tokenizer changes text ('a' comes back as 'b'); token 7 is outside the vocabulary",
    "model.tie_embeddings=true data.tokenizer=bytes --tokenizer-model tokenizer.json",
    "step 3: loss 2.0 = 2.0",
]


@pytest.mark.parametrize("text", SAID)
def test_a_secret_is_masked_wherever_it_stands(text: str) -> None:
    shown = masked(text.format(*[SECRET] * 3))
    assert SECRET not in shown and MASK in shown and holds_secret(text.format(*[SECRET] * 3))
    assert masked(shown) == shown


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_is_shown_as_it_is(text: str) -> None:
    assert masked(text) == text and not holds_secret(text)


@given(st.text(alphabet=st.characters(codec="utf-8", categories=("L", "N")), min_size=4), st.sampled_from(SAID))
def test_any_word_may_be_the_secret(secret: str, text: str) -> None:
    before, _, after = text.partition("{}")
    if secret not in before + after.replace("{}", ""):
        assert secret not in masked(before + secret + after.replace("{}", secret)).replace(MASK, "")


@given(st.text())
def test_masking_twice_is_masking_once(text: str) -> None:
    assert masked(masked(text)) == masked(text)


def test_errors_and_records_are_masked() -> None:
    address = f"https://me:{SECRET}@host/x"
    for error in (UserError([f"{address}: no", address]), DataError(f"{address}: no")):
        assert SECRET not in str(error) and all(SECRET not in problem for problem in error.problems)
    made = {"inputs": [{"given": [address], "num_files": 1}], "none": None}
    assert SECRET not in json.dumps(masked_tree(made)) and masked_tree(made)["inputs"][0]["num_files"] == 1


def test_it_costs_no_import() -> None:
    code = "import sys, data_pipeline.masking; print(sorted({'pydantic', 'yaml', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
