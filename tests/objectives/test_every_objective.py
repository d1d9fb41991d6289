"""What every objective keeps: the exports its room asks for, and batches that no layout changes."""

from types import ModuleType

import pytest
import torch

from data_pipeline.read.loader import Rows
from hierlm import metric_names, objectives
from hierlm.objectives.batch import Drawn
from hierlm.objectives.config import ObjectiveConfig

EXPORTS = ("Config", "INPUTS", "SEES", "HEADLINE", "LOWER_IS_BETTER", "batch", "units", "Totals")


@pytest.fixture(params=objectives.names())
def asked(request: pytest.FixtureRequest) -> ModuleType:
    return objectives.objective(request.param)


def rows(first: int, behind: int) -> Rows:
    tokens = torch.randint(2, 60, (8, 33), generator=torch.Generator().manual_seed(0))
    return Rows(tokens[first:behind], torch.arange(8)[first:behind], data_pass=1)


def test_it_exports_what_its_room_asks_for(asked: ModuleType) -> None:
    assert not [name for name in EXPORTS if not hasattr(asked, name)]
    assert asked.SEES in ("past", "all") and issubclass(asked.Config, ObjectiveConfig)


def test_a_row_is_the_same_in_whatever_batch_it_comes(asked: ModuleType) -> None:
    config = asked.Config()
    whole, again = (asked.batch(rows(0, 8), config, seed=5) for _ in range(2))
    parts = [asked.batch(rows(first, first + 2), config, seed=5) for first in range(0, 8, 2)]
    assert torch.equal(whole.targets, again.targets)
    assert torch.equal(whole.targets, torch.cat([part.targets for part in parts]))
    for name, tensor in whole.inputs.items():
        assert torch.equal(tensor, torch.cat([part.inputs[name] for part in parts])), name
    if whole.weights is not None:
        assert torch.equal(whole.weights, torch.cat([part.weights for part in parts]))


def test_an_evaluation_has_a_loss_a_count_and_the_headline_whichever_passes_it_was_made_in(asked: ModuleType) -> None:
    config, found = asked.Config(), []
    nats = torch.rand(8, 32, generator=torch.Generator().manual_seed(1))
    for size in (8, 2):
        totals = asked.Totals()
        for first in range(0, 8, size):
            batch = asked.batch(rows(first, first + size), config, seed=5)
            totals.add(nats[first : first + size] * (batch.targets >= 0), batch)
        found.append(totals.metrics(totals.sums, Drawn(0.25, "text")))
    assert found[0] == pytest.approx(found[1])
    assert {metric_names.LOSS, metric_names.TOKENS, asked.HEADLINE} <= found[0].keys()
    assert isinstance(found[0][metric_names.TOKENS], int)
