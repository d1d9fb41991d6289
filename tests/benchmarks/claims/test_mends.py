"""A claim is marked where a mend came after its runs, in exactly the runs that it touches, and nowhere else."""

import pytest
import torch

from hierlm.models.assembly import LanguageModel, canonical_kinds
from hierlm.models.config import ModelConfig
from hierlm.optim.param_groups import DECAYED
from tests.benchmarks.claims import document
from tests.benchmarks.claims.catalogue import CLAIMS
from tests.benchmarks.claims.declared import Claim, Run
from tests.benchmarks.claims.making import made_up
from tests.benchmarks.claims.mends import MENDS, mark, mend_after
from tests.benchmarks.claims.results import read, results_file
from tests.conftest import ROOT

BY_NAME = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
WORDS = "before a mend"
BY_WORD = ("dropout", "div_value", "cutoffs", "positions")


def decays_as_in_0_1(config: ModelConfig) -> bool:
    """Whether weight decay reaches what has two dimensions or more, as it did."""
    kinds = canonical_kinds(config)
    with torch.device("meta"):
        named = LanguageModel(config, seed=0).named_parameters()
    return all((kinds[name] in DECAYED) == (parameter.dim() >= 2) for name, parameter in named)


def run_of_each_file(claim: Claim) -> list[Run]:
    """One run of each config; arms of the same one differ in sizes, and in switches that the overrides name."""
    return list({arm.config: arm.runs[0] for arm in claim.arms}.values())


@BY_NAME
def test_the_marked_runs_are_those_whose_weight_decay_has_changed(claim):
    results = read(results_file(claim))
    mend = None if results is None else mend_after(results)
    if results is not None and mend is None and claim.name in MENDS:
        pytest.fail(f"{claim.name} was run again: take its mend away")
    models = [run.load().model for run in run_of_each_file(claim)]
    changed = {model.arch for model in models if not decays_as_in_0_1(model)}
    assert changed == (mend.archs if mend else set())


@BY_NAME
def test_no_claim_drops_anything_or_has_bins_of_falling_width(claim):
    assert not any(word in override for arm in claim.arms for override in arm.overrides for word in BY_WORD)
    for run in run_of_each_file(claim):
        config = run.load()
        switches = [config.model.model_dump(), *(phase.model for phase in config.phases)]
        rates = [rate for given in switches for name, rate in given.items() if name.endswith("dropout")]
        assert not any(rates)
        assert getattr(config.model, "div_value", 1) == 1


@BY_NAME
def test_results_of_new_runs_bear_no_mark(claim):
    assert mark(made_up(claim, {})) is None


@BY_NAME
def test_document_and_readme_bear_the_mark_where_there_is_one(claim):
    results = read(results_file(claim))
    section = document.DOCUMENT.read_text().split(f"## {claim.name} (")[1].split("\n## ")[0]
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if f"({claim.paper})" in line]
    assert rows
    is_marked = results is not None and mark(results) is not None
    assert (results is not None and str(mark(results)) in section) is is_marked
    assert any(WORDS in row for row in rows) is is_marked
