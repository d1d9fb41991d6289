"""A phase leaves parameters out: nothing of them changes, and the others move as if they were alone."""

from itertools import pairwise
from typing import Any

import torch
from torch import nn

from hierlm.nn.parameter_kinds import parameter_kinds
from hierlm.optim.build import build_optimizer
from hierlm.optim.config import OptimConfig
from hierlm.optim.phased_adamw import PhasedAdamW

TRAINED_IN = {"0.weight": (True, False, True), "0.bias": (True, True, True), "1.weight": (False, True, True)}


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))


def optimizer_of(network: nn.Sequential, config: OptimConfig, **how: Any) -> PhasedAdamW:
    return build_optimizer(config, network, kinds=parameter_kinds(network), **how)


def update(network: nn.Sequential, optimizer: PhasedAdamW, *, seed: int) -> None:
    optimizer.zero_grad()
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    network(inputs).square().mean().backward()
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()


def everything(network: nn.Sequential, optimizer: PhasedAdamW) -> dict[str, list[torch.Tensor]]:
    """Weight, moments and step count of each parameter."""
    return {
        name: [parameter.detach().clone(), *(value.clone() for value in optimizer.state[parameter].values())]
        for name, parameter in network.named_parameters()
    }


def test_a_frozen_parameter_keeps_weight_moments_and_step_count_while_the_others_move() -> None:
    network = model()
    optimizer = optimizer_of(network, OptimConfig(weight_decay=0.5), trained_in=TRAINED_IN)
    states = []
    for index in range(3):
        optimizer.begin_phase(index)
        update(network, optimizer, seed=index)
        states.append(everything(network, optimizer))
    for index, (before, after) in enumerate(pairwise(states), start=1):
        for name, phases in TRAINED_IN.items():
            same = [torch.equal(a, b) for a, b in zip(before[name], after[name], strict=False)]
            assert any(same) is not phases[index] and all(same) is not phases[index], name
    steps = {name: int(optimizer.state[p]["step"]) for name, p in network.named_parameters()}
    assert steps == {"0.weight": 2, "0.bias": 3, "1.weight": 2}


def test_a_frozen_parameter_has_a_gradient_of_zero() -> None:
    network = model()
    optimizer = optimizer_of(network, OptimConfig(), trained_in=TRAINED_IN)
    optimizer.begin_phase(1)
    update(network, optimizer, seed=0)
    gradients = {name: bool(parameter.grad.any()) for name, parameter in network.named_parameters()}
    assert gradients == {"0.weight": False, "0.bias": True, "1.weight": True}


def test_without_phases_it_is_adamw() -> None:
    ours, theirs = model(), model()
    optimizer = optimizer_of(ours, OptimConfig())
    reference = torch.optim.AdamW(
        [
            {"params": [p for p in theirs.parameters() if p.dim() == d], "weight_decay": w}
            for d, w in ((2, 0.1), (1, 0))
        ],
        lr=0.1,
        betas=(0.9, 0.95),
        fused=True,
    )
    for seed in range(3):
        update(ours, optimizer, seed=seed)
        update(theirs, reference, seed=seed)  # type: ignore[arg-type]
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
