"""Datasets of the claims, made from the corpora by `hierlm data prepare`."""

import os
import subprocess
from pathlib import Path

from hierlm.errors import UserError
from tests.benchmarks.claims.declared import Corpus
from tests.conftest import CORPORA, ROOT, hierlm_path

DATASETS = Path("data/claims")  # below the repository: what `data.path` of the scaled configs names

WIKIPEDIA = Corpus(
    name="enwiki2014-bytes",
    inputs=("{data}/enwiki2014-plain-100M/enwiki2014_plain_100000000.xz",),
    options=("--tokenizer", "bytes", "--splits", "valid=0.05,test=0.05"),
    licence="CC BY-SA 3.0",
)
ENWIK8_PREFIX = Corpus(
    name="enwik8-prefix-bytes",
    inputs=("{data}/enwik8-prefix/enwik8_first4000000.gz",),
    options=("--tokenizer", "bytes", "--splits", "valid=0.05,test=0.05"),
    licence="CC BY-SA / GFDL",
)
NOVELS = Corpus(
    name="eltec-eng-1024",
    inputs=("{data}/eltec-eng/train.txt.xz",),
    options=(
        *("--tokenizer", "sentencepiece", "--vocab-size", "1024"),
        *("--splits", "valid={data}/eltec-eng/valid.txt.xz,test={data}/eltec-eng/test.txt.xz"),
    ),
    licence="public domain, markup CC BY 4.0",
)
WIKITEXT = Corpus(
    name="wikitext-2-1024",
    inputs=("{data}/wikitext-2/train.txt.gz",),
    options=(
        *("--tokenizer", "sentencepiece", "--vocab-size", "1024"),
        *("--splits", "valid={data}/wikitext-2/valid.txt.gz,test={data}/wikitext-2/test.txt.gz"),
    ),
    licence="CC BY-SA 3.0",
)


def prepare_command(corpus: Corpus, *, data: Path | str) -> list[str]:
    """The arguments of `hierlm` that make the dataset from the corpora in `data`."""
    inputs = [word.format(data=data) for word in corpus.inputs]
    options = [word.format(data=data) for word in corpus.options]
    return ["data", "prepare", "--input", *inputs, *options, "--output", str(DATASETS / corpus.name), "--resume"]


def prepare(corpus: Corpus) -> None:
    """Make the dataset, or find it made; UserError when a corpus is absent or the preparation fails."""
    absent = [path for word in corpus.inputs if not (path := Path(word.format(data=CORPORA))).exists()]
    if absent:
        given = os.environ.get("HIERLM_TEST_DATA", "not set")
        raise UserError(
            f"{absent[0]}: no such corpus; HIERLM_TEST_DATA is {given}, it must name the folder that holds the corpora"
        )
    command = [hierlm_path(), *prepare_command(corpus, data=CORPORA)]
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
        raise UserError(f"{DATASETS / corpus.name}: not prepared, exit code {done.returncode}: {' '.join(command)}")
