"""However the layer list is cut into stages, weights are tied as in the whole model, and called by the same names."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from hierlm import models
from hierlm.models.assembly import LanguageModel, canonical_names, layer_specs, shared_weights
from hierlm.models.config import ModelConfig
from hierlm.nn.layer import SharedWeights
from hierlm.parallel import stage_model
from hierlm.parallel.degrees import Degrees
from hierlm.parallel.stage_model import build_stage, set_parameter
from hierlm.parallel.universal import SLICES, require_names

SIZES = {"vocab_size": 32, "hidden_dim": 8, "num_heads": 2, "ffn_dim": 12, "num_layers": 12}
"""Deep enough that a stage of four holds at least three layers of each kind."""

TIED = {
    "transformer": {"tie_embeddings": True},
    "transformer_xl": {"memory_length": 8, "share_position_biases": True, "tie_embeddings": True},
    "transformer_xl-untied": {"memory_length": 8, "share_position_biases": True, "tie_embeddings": False},
    "transformer_xl-bins": {"memory_length": 8, "tie_embeddings": True, "cutoffs": [8, 16], "div_value": 2},
    "skip_cross_head_xl": {"memory_length": 8, "share_position_biases": True, "tie_embeddings": True},
}


def config_of(name: str) -> ModelConfig:
    arch = name.partition("-")[0]
    config: ModelConfig = models.architecture(arch).Config.model_validate({"arch": arch, **SIZES, **TIED[name]})
    return config


def named(config: ModelConfig, stage: range) -> tuple[nn.Module, list[str]]:
    """A stage as the pipeline holds it: what it borrows under its owner's name, then its layers; borrowed names."""
    groups: Any = SimpleNamespace(degrees=Degrees(pipeline=4, data=1, tensor=1))
    built = build_stage(config, seed=3, stage=stage, groups=groups)
    module = nn.Module()
    module.layers = nn.ModuleDict()
    for weight in built.borrowed:
        set_parameter(module, weight.canonical_name, weight.weight)
    for index, layer in built.layers.items():
        module.layers.add_module(str(index), layer)
    return module, [weight.canonical_name for weight in built.borrowed]


@pytest.mark.parametrize("name", TIED)
@pytest.mark.parametrize("num_stages", [2, 3, 4, 7])
def test_every_stage_holds_one_copy_under_the_owners_name(name: str, num_stages: int) -> None:
    config = config_of(name)
    whole, length = LanguageModel(config, seed=3), len(layer_specs(config))
    assert shared_weights(config)
    canonical = {id(p): n for n, p in whole.named_parameters()}
    seen, starts = set(), [round(stage * length / num_stages) for stage in range(num_stages + 1)]
    for start, stop in pairwise(starts):
        stage, borrowed = named(config, range(start, stop))
        own = {f"layers.{index}." for index in range(start, stop)}
        for alias, parameter in stage.named_parameters(remove_duplicate=False):
            if any(alias.startswith(prefix) for prefix in own):  # a name that the whole model knows the weight by, too
                expected = canonical[id(whole.get_parameter(alias))]
                [found] = [n for n, p in stage.named_parameters() if p is parameter]
                assert found == expected
                assert parameter.equal(whole.get_parameter(alias))
        assert len(borrowed) == len(set(borrowed))
        seen |= {n for n, _ in stage.named_parameters()}
    assert seen == set(canonical_names(config))


def test_an_owner_on_another_stage_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built, build = [], stage_model.build_layer

    def counting(spec: Any, *, seed: int, index: int) -> Any:
        built.append(index)
        return build(spec, seed=seed, index=index)

    monkeypatch.setattr(stage_model, "build_layer", counting)
    named(config_of("transformer_xl"), range(9, 14))
    assert sorted(built) == [0, 1, *range(9, 14)]


def test_names_that_are_not_the_models_are_refused() -> None:
    info = {SLICES: {"layers.0.weight": "row", "layers.5.stray": "row"}}
    require_names(info, ["layers.0.weight", "layers.5.stray"])
    with pytest.raises(RuntimeError, match=r"unknown layers\.5\.stray; missing layers\.1\.bias"):
        require_names(info, ["layers.0.weight", "layers.1.bias"])


def test_shares_name_a_root_owner() -> None:
    """An owner reads no other layer's weight: one step leads from any user to the tensor."""
    for name in TIED:
        shares: list[SharedWeights] = shared_weights(config_of(name))
        users = {(share.user, share.user_parameter) for share in shares}
        assert not users & {(share.owner, share.owner_parameter) for share in shares}
