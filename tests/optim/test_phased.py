"""A phase leaves parameters out: nothing of them changes, and the others move as if they were alone; any optimizer."""

from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from hierlm.errors import UserError
from hierlm.nn.parameter_kinds import parameter_kinds
from hierlm.optim import optimizers
from hierlm.optim.build import build_optimizer, reset_optimizer
from hierlm.optim.config import OptimConfig
from hierlm.optim.optimizers import adamw, lion, sgd
from hierlm.optim.param_groups import param_groups
from hierlm.optim.phased import GroupTerms, Phased
from hierlm.optim.rules import OwnTerms, Pace
from hierlm.optim.state_names import StateNames

TRAINED_IN = {"0.weight": (True, False, True), "0.bias": (True, True, True), "1.weight": (False, True, True)}
every_optimizer = pytest.mark.parametrize("name", optimizers.names())


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))


def config_of(name: str, **fields: Any) -> OptimConfig:
    config: OptimConfig = optimizers.optimizer(name).Config(**fields)
    return config


def optimizer_of(network: nn.Sequential, config: OptimConfig, **how: Any) -> Phased:
    return build_optimizer(config, network, kinds=parameter_kinds(network), **how)


def update(network: nn.Sequential, optimizer: torch.optim.Optimizer, *, seed: int, phase: int = 0) -> None:
    optimizer.zero_grad()
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    if isinstance(optimizer, Phased):
        optimizer.begin_update(phase, learning_rate=0.1)
    network(inputs).square().mean().backward()
    optimizer.step()


def everything(network: nn.Sequential, optimizer: Phased) -> dict[str, list[torch.Tensor]]:
    """Weight, states and counts of each parameter."""
    return {
        name: [parameter.detach().clone(), *(value.clone() for value in optimizer.state[parameter].values())]
        for name, parameter in network.named_parameters()
    }


@every_optimizer
def test_a_frozen_parameter_keeps_weight_and_state_while_the_others_move(name: str) -> None:
    network = model()
    optimizer = optimizer_of(network, config_of(name, weight_decay=0.5), trained_in=TRAINED_IN)
    states = []
    for index in range(3):
        update(network, optimizer, seed=index, phase=index)
        states.append(everything(network, optimizer))
    for index, (before, after) in enumerate(pairwise(states), start=1):
        for parameter, phases in TRAINED_IN.items():
            same = [torch.equal(a, b) for a, b in zip(before[parameter], after[parameter], strict=False)]
            assert any(same) is not phases[index] and all(same) is not phases[index], parameter


def test_a_frozen_parameter_counts_no_step() -> None:
    network = model()
    optimizer = optimizer_of(network, adamw.Config(), trained_in=TRAINED_IN)
    for index in range(3):
        update(network, optimizer, seed=index, phase=index)
    steps = {name: int(optimizer.state[p]["step"]) for name, p in network.named_parameters()}
    assert steps == {"0.weight": 2, "0.bias": 3, "1.weight": 2}


@every_optimizer
def test_a_frozen_parameter_has_a_gradient_of_zero(name: str) -> None:
    network = model()
    optimizer = optimizer_of(network, config_of(name), trained_in=TRAINED_IN)
    update(network, optimizer, seed=0, phase=1)
    gradients = {name: bool(parameter.grad.any()) for name, parameter in network.named_parameters()}
    assert gradients == {"0.weight": False, "0.bias": True, "1.weight": True}


@every_optimizer
@pytest.mark.parametrize("skipped", [0, 1])
def test_a_skipped_step_is_as_if_it_had_not_been(name: str, skipped: int) -> None:
    """The first one too: state that it makes is zeros, as that before the first step."""
    ends = []
    for leaves_out in (False, True):
        network = model()
        optimizer = optimizer_of(network, config_of(name))
        for seed in range(3):
            if seed != skipped or leaves_out:
                optimizer.skip_if(torch.tensor(seed == skipped))
                update(network, optimizer, seed=seed)
        ends.append(everything(network, optimizer))
    for parameter, without in ends[0].items():
        for a, b in zip(without, ends[1][parameter], strict=True):
            assert torch.equal(a, b), parameter


@every_optimizer
def test_state_that_is_saved_and_loaded_goes_on_to_the_last_bit(name: str) -> None:
    """Loading replaces groups and state: the optimizer inside must not go on with those it had."""
    whole, parted = model(), model()
    optimizer = optimizer_of(whole, config_of(name), trained_in=TRAINED_IN)
    for seed in range(2):
        update(whole, optimizer, seed=seed, phase=seed)
    loaded = optimizer_of(parted, config_of(name), trained_in=TRAINED_IN)
    update(parted, loaded, seed=7)
    parted.load_state_dict(whole.state_dict())
    loaded.load_state_dict(deepcopy(optimizer.state_dict()))
    for network, each in ((whole, optimizer), (parted, loaded)):
        update(network, each, seed=2, phase=2)
    for a, b in zip(whole.parameters(), parted.parameters(), strict=True):
        assert torch.equal(a, b)


@every_optimizer
def test_its_state_is_what_its_file_says_and_reset_is_as_before_the_first_step(name: str) -> None:
    first, again = model(), model()
    optimizer = optimizer_of(first, config_of(name))
    update(first, optimizer, seed=0)
    names = StateNames.of(name)
    assert all(set(state) == {*names.states, *names.counts} for state in optimizer.state.values())
    first.load_state_dict(again.state_dict())
    reset_optimizer(optimizer)
    update(first, optimizer, seed=1)
    update(again, optimizer_of(again, config_of(name)), seed=1)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


@every_optimizer
def test_at_a_rate_of_0_no_weight_changes_whatever_rules_say(name: str) -> None:
    """What a rehearsal rests on."""
    network = model()
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = optimizer_of(network, config_of(name), own={"0.bias": OwnTerms(Pace(constant=0.25))})
    optimizer.begin_update(0, learning_rate=0.0)
    network(torch.ones(2, 3)).square().mean().backward()
    optimizer.step()
    for a, b in zip(before, network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_that_its_file_does_not_describe_is_refused_in_one_line() -> None:
    network = model()
    inner = torch.optim.Adagrad(network.parameters(), lr=0.1)
    groups = [GroupTerms((), Pace())]
    optimizer = Phased(inner, groups, names=StateNames(name="mine", states=("sum_of_squares",), counts=("step",)))
    with pytest.raises(UserError, match=r"optim\.name: given mine, whose state sum \(\[4, 3\] of a parameter \[4, 3\]"):
        update(network, optimizer, seed=0)


@every_optimizer
def test_rules_give_a_rate_and_a_decay_of_their_own_in_every_phase_and_after_a_load(name: str) -> None:
    network = model()
    own = {"0.weight": OwnTerms(Pace(factor=0.5)), "0.bias": OwnTerms(Pace(constant=0.25), weight_decay=0.75)}
    optimizer = optimizer_of(network, config_of(name, weight_decay=0.5), own=own)
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        group["weight_decay"] = group["lr"] = 9.0
    optimizer.load_state_dict(saved)
    optimizer.begin_update(0, learning_rate=0.1)
    name_of = {id(parameter): name for name, parameter in network.named_parameters()}
    found = {name_of[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert found == {"0.weight": (0.05, 0.5), "0.bias": (0.25, 0.75), "1.weight": (0.1, 0.5)}


def test_without_phases_it_is_adamw() -> None:
    ours, theirs = model(), model()
    reference = torch.optim.AdamW(by_decay(theirs, 0.1), lr=0.1, betas=(0.9, 0.95), fused=True)
    require_equal(ours, optimizer_of(ours, adamw.Config()), theirs, reference)


def test_without_phases_it_is_sgd() -> None:
    ours, theirs = model(), model()
    reference = torch.optim.SGD(by_decay(theirs, 0.1), lr=0.1, momentum=0.8, nesterov=True)
    require_equal(ours, optimizer_of(ours, sgd.Config(momentum=0.8, nesterov=True)), theirs, reference)


def test_lion_is_the_papers_algorithm() -> None:
    """2302.06675, algorithm 2, value by value in double precision."""
    network = model()
    optimizer = optimizer_of(network, lion.Config(betas=(0.8, 0.95), weight_decay=0.3))
    weights = [p.detach().double() for p in network.parameters()]
    moments = [torch.zeros_like(weight) for weight in weights]
    decays = [0.3 if p.dim() == 2 else 0.0 for p in network.parameters()]
    for seed in range(4):
        update(network, optimizer, seed=seed)
        for index, parameter in enumerate(network.parameters()):
            gradient = parameter.grad.double()
            direction = (0.8 * moments[index] + 0.2 * gradient).sign()
            weights[index] = weights[index] - 0.1 * (direction + decays[index] * weights[index])
            moments[index] = 0.95 * moments[index] + 0.05 * gradient
    for weight, parameter in zip(weights, network.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach().double(), weight, rtol=1e-5, atol=1e-6)


def by_decay(network: nn.Sequential, weight_decay: float) -> list[dict[str, Any]]:
    groups = param_groups(network.named_parameters(), kinds=parameter_kinds(network), weight_decay=weight_decay)
    return [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups]


def require_equal(ours: nn.Sequential, optimizer: Phased, theirs: nn.Sequential, reference: Any) -> None:
    for seed in range(3):
        update(ours, optimizer, seed=seed)
        update(theirs, reference, seed=seed)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
