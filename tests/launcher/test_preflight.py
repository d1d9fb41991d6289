from pathlib import Path

import pytest

from hierlm.errors import UserError
from launcher.preflight import data_problems, refuse_what_cannot_run
from tests.config.making import config


def test_a_dataset_that_fits_raises_nothing(tmp_path: Path, tiny_dataset: Path) -> None:
    refuse_what_cannot_run(config(tmp_path, f"data.path={tiny_dataset}"))


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("data.path=/no/data", "/no/data"),
        ("data.tokenizer=sentencepiece", "another tokenizer"),
        ("phases.1.sequence_length=10000000", "longer than the train split"),
        ("model.vocab_size=100", "model.vocab_size"),
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path: Path, tiny_dataset: Path, override: str, part: str) -> None:
    with pytest.raises(UserError, match=part):
        refuse_what_cannot_run(config(tmp_path, f"data.path={tiny_dataset}", override))


def test_all_reasons_are_told_together(tmp_path: Path, tiny_dataset: Path) -> None:
    sources = f"data.sources=[{{path: {tiny_dataset}}}, {{path: /no/data}}]"
    assert len(data_problems(config(tmp_path, sources, "model.vocab_size=100"))) == 2
