"""A rate or a decay of some parameters is the same one in every layout, and a run goes on with it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hierlm.checkpoint.canonical import read_canonical
from hierlm.checkpoint.universal import write_universal
from hierlm.parallel.engine import TAG
from tests.distributed.spawn import RankFailedError, run_ranks
from tests.distributed.test_frozen_parameters import PHASES
from tests.distributed.test_optimizers import engine_of, save_into, steps_of

STILL, CONSTANT = r"layers\.1\.feed_forward_norm", r"layers\.2"
RULES = [
    "optim.rules=["
    f"{{parameters: '{STILL}', learning_rate_factor: 0.0}},"
    f"{{parameters: '{CONSTANT}', learning_rate: 0.002, weight_decay: 0.0}},"
    r"{parameters: '.*\.bias', learning_rate_factor: 3.0}]",
    f"phases={PHASES.partition(', {name: some')[0]}]",
    "phases.0.duration.steps=4",
]
LAYOUTS = [
    ("adamw", (2, 1, 1, 3)),
    *(
        pytest.param("adamw", where, marks=[pytest.mark.slow, *marks])
        for where, marks in [
            ((1, 2, 2, 1), []),
            ((2, 1, 1, 0), [pytest.mark.matrix]),
            ((2, 1, 1, 1), [pytest.mark.matrix]),
            ((2, 1, 1, 2), [pytest.mark.matrix]),
            ((2, 1, 2, 1), [pytest.mark.matrix]),
            ((2, 2, 1, 3), [pytest.mark.matrix]),
        ]
    ),
    pytest.param("sgd", (1, 1, 2, 0), marks=[pytest.mark.slow, pytest.mark.matrix]),
]


def run_and_resume(name: str, where: Any, root: str) -> Any:
    """On every rank: a whole run, saved at 0 steps, 2 and the end, and one that goes on from 2."""
    folder = Path(root)
    engine = engine_of(name, where, RULES)
    whole = steps_of(engine, 0, 4, save=folder)
    again = engine_of(name, where, RULES)
    assert again.is_grouped_as(folder / "2")
    again.load(folder / "2")
    return whole, steps_of(again, 2, 4)


def weights_of(folder: Path) -> dict[str, Tensor]:
    state = read_canonical(folder / TAG)
    return {name: state.tensor(name, "fp32") for name in state.names}


@pytest.mark.distributed
@pytest.mark.parametrize(("name", "where"), LAYOUTS)
def test_rules_are_followed_in_every_layout_as_on_one_process_and_over_a_resume(
    name: str, where: Any, tmp_path: Path
) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    alone, _ = run_ranks(run_and_resume, 1, name, (1, 1, 1, 0), str(one))[0]
    whole, rest = run_ranks(run_and_resume, where[0] * where[1] * where[2], name, where, str(several))[0]
    assert rest == whole[2:]
    torch.testing.assert_close(torch.tensor(whole), torch.tensor(alone), rtol=1e-5, atol=0)
    expected, early, found = weights_of(one / "4"), weights_of(several / "2"), weights_of(several / "4")
    for parameter, weight in found.items():
        if parameter.endswith("key.bias"):
            continue  # without a gradient, by symmetry: AdamW makes steps of its noise
        torch.testing.assert_close(weight, expected[parameter], rtol=1e-3, atol=2e-5, msg=parameter)
        is_still = parameter == "layers.1.feed_forward_norm.weight"
        assert torch.equal(weight, early[parameter]) is is_still, parameter


def go_on_with_rules_of_the_architecture(root: str) -> Any:
    """On every rank: a run without rules; its checkpoint in an engine of an architecture that has some."""
    from hierlm.models import transformer
    from hierlm.optim.config import ParameterRule

    plain, where, folder = RULES[1:], (1, 1, 1, 1), Path(root)
    steps_of(engine_of("adamw", where, plain), 0, 2, save=folder)
    write_universal(folder / "2" / TAG, folder / "universal", progress=lambda done, total: None)
    transformer.PARAM_RULES = (ParameterRule(parameters=r"layers\.2", learning_rate_factor=0.0),)  # type: ignore[attr-defined]
    engine = engine_of("adamw", where, plain)
    is_grouped_alike = engine.is_grouped_as(folder / "2")
    engine.load_converted(folder / "universal")
    steps_of(engine, 2, 3)
    save_into(engine, folder / "end")
    return is_grouped_alike


@pytest.mark.slow
@pytest.mark.distributed
def test_an_architecture_that_has_come_to_rules_goes_on_with_a_checkpoint_grouped_otherwise(tmp_path: Path) -> None:
    assert run_ranks(go_on_with_rules_of_the_architecture, 1, str(tmp_path)) == [False]
    before, after = weights_of(tmp_path / "2"), weights_of(tmp_path / "end")
    assert {name for name in before if torch.equal(before[name], after[name])} == {
        name for name in before if name.startswith("layers.2.")
    }


@pytest.mark.slow
@pytest.mark.distributed
def test_a_rule_without_a_parameter_is_refused_when_the_engine_is_built() -> None:
    more = [r"optim.rules=[{parameters: 'layers\.77', weight_decay: 0.0}]"]
    with pytest.raises(RankFailedError, match=r"UserError: optim\.rules\.0\.parameters: given \"layers"):
        run_ranks(engine_of, 1, "adamw", (1, 1, 1, 0), more)
