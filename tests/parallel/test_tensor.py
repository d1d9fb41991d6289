"""Slices are cut from the single-device weights, and what is replicated stays equal."""

import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from hierlm import models
from hierlm.nn.layer import Layer, build_layer
from hierlm.nn.stream import Stream
from hierlm.parallel.degrees import Degrees
from hierlm.parallel.tensor import slice_layer
from hierlm.parallel.tensor_plan import rule_for
from tests.distributed.spawn import run_ranks

WIDTH, HIDDEN, VOCAB = 8, 12, 7
PLAN = {
    r"layers\.\d+\.tokens": "vocabulary",
    r"layers\.\d+\.head": "vocabulary",
    r"layers\.\d+\.expand": "column",
    r"layers\.\d+\.contract": "row",
    r"layers\.\d+\.gain": "column",
    r"layers\.\d+\.scale": "partial",
    r"layers\.\d+\.norm": "replicate",
}


class Whole(Layer):
    """Everything a plan can name: a tied embedding, both projections, a bare weight of each kind."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.expand, self.contract = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.gain = nn.Parameter(torch.randn(HIDDEN))
        self.scale = nn.Parameter(torch.randn(()))
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, stream, memory=None):
        x = self.norm(self.tokens(stream.hidden))
        x = x + self.contract(torch.tanh(self.expand(x)) * self.gain * self.scale)
        return stream.with_hidden(self.head(x[:, :, None])[:, :, 0]), None  # four dimensions on the way


def built() -> Layer:
    return build_layer(Whole, seed=3, index=0)


def tokens() -> torch.Tensor:
    return torch.arange(10).reshape(2, 5) % VOCAB


def objective(logits: torch.Tensor, first: int) -> torch.Tensor:
    """A sum over the vocabulary with a weight of its own for every entry."""
    weights = torch.arange(first, first + logits.shape[-1], dtype=logits.dtype)
    return (logits[..., : max(VOCAB - first, 0)].square() * weights[: max(VOCAB - first, 0)]).sum()


def sliced_run() -> dict[str, Any]:
    from hierlm.parallel.groups import start_groups
    from hierlm.parallel.process import start_processes

    start_processes()
    groups = start_groups(Degrees(tensor=2))
    layer = built()
    slice_layer(layer, 0, PLAN, groups)
    logits = layer(Stream((tokens(),)))[0].hidden
    objective(logits, first=groups.tp_rank * logits.shape[-1]).backward()
    layer.load_state_dict(layer.state_dict())  # strict: nothing of megatron's may be in it
    return {
        "names": [name for name, _ in layer.named_parameters()],
        "state": list(layer.state_dict()),
        "weights": {name: p.detach().numpy() for name, p in layer.named_parameters()},
        "gradients": {name: p.grad.numpy() for name, p in layer.named_parameters()},
        "slices": {name for name, p in layer.named_parameters() if getattr(p, "tensor_model_parallel", False)},
        "logits": logits.detach().numpy(),
    }


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    found = run_ranks(sliced_run, 2)  # arrays: a tensor cannot outlive the process that sends it
    for rank in found:
        rank["logits"] = torch.from_numpy(rank["logits"])
        for kind in ("weights", "gradients"):
            rank[kind] = {name: torch.from_numpy(values) for name, values in rank[kind].items()}
    return found


def merged(ranks: list[dict[str, Any]], kind: str, name: str) -> torch.Tensor:
    parts = [rank[kind][name] for rank in ranks]
    if name not in ranks[0]["slices"]:
        return parts[0]
    return torch.cat(parts, dim=1 if name == "contract.weight" else 0)


@pytest.mark.distributed
def test_names_are_those_of_the_single_device_model(ranks):
    assert ranks[0]["names"] == [name for name, _ in built().named_parameters()]
    assert ranks[0]["state"] == list(built().state_dict())


@pytest.mark.distributed
def test_slices_put_together_are_the_single_device_weights(ranks):
    assert ranks[0]["slices"] == {"tokens.weight", "expand.weight", "expand.bias", "contract.weight", "gain"}
    for name, whole in built().named_parameters():
        found = merged(ranks, "weights", name)
        assert torch.equal(found[: whole.shape[0]] if whole.dim() else found, whole), name


@pytest.mark.distributed
def test_outputs_and_gradients_equal_the_single_device_model(ranks):
    layer = built()
    logits = layer(Stream((tokens(),)))[0].hidden
    objective(logits, first=0).backward()
    torch.testing.assert_close(torch.cat([r["logits"] for r in ranks], dim=-1)[..., :VOCAB], logits.detach())
    for name, parameter in layer.named_parameters():
        found = merged(ranks, "gradients", name)
        found = found[: parameter.shape[0]] if parameter.dim() else found
        torch.testing.assert_close(found, parameter.grad, rtol=1e-5, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.distributed
def test_gradients_of_replicated_weights_are_equal_to_the_last_bit(ranks):
    for name in set(ranks[0]["names"]) - ranks[0]["slices"]:
        assert torch.equal(ranks[0]["gradients"][name], ranks[1]["gradients"][name]), name


@pytest.mark.distributed
def test_padding_has_no_probability_and_no_gradient(ranks):
    assert (ranks[1]["logits"][..., -1] == torch.finfo(torch.float32).min).all()
    assert not ranks[1]["gradients"]["tokens.weight"][-1].any()


def test_a_weight_no_pattern_covers_is_named():
    with pytest.raises(ValueError, match=re.escape("no pattern covers layers.0.other.weight")):
        rule_for(PLAN, "layers.0.other.weight")


def test_the_first_pattern_that_matches_decides():
    plan = {r"layers\.1\.expand": "replicate", **PLAN}
    assert rule_for(plan, "layers.1.expand.weight") == "replicate"
    assert rule_for(plan, "layers.2.expand.bias") == "column"


class _NoGroups:
    """Two ranks that are never started: enough to find out that a width does not divide."""

    degrees, tp_rank, tensor = Degrees(tensor=2), 0, None


def test_a_width_the_degree_does_not_divide_is_refused():
    layer = build_layer(partial(_Odd), seed=0, index=4)
    with pytest.raises(ValueError, match=r"2 does not divide the 5 of layers\.4\.expand\.weight"):
        slice_layer(layer, 4, PLAN, _NoGroups())


class _Odd(Layer):
    def __init__(self):
        super().__init__()
        self.expand = nn.Linear(3, 5)


@pytest.mark.parametrize("arch", models.names())
def test_every_architecture_has_a_plan_of_known_rules(arch):
    assert set(models.architecture(arch).TENSOR_PLAN.values()) <= {
        "column",
        "row",
        "vocabulary",
        "replicate",
        "partial",
    }
