"""Every option of the shared block keeps the contract in every architecture that has it.

`make test` makes the fast checks on a few mixtures of options, in which each option meets several others; `make matrix`
makes all checks on each option by itself, and on the mixtures.
"""

from functools import cache
from typing import Any

import pytest
from pydantic import ValidationError

from hierlm import models
from hierlm.config.load import check_mapping, load_config, plain_config
from hierlm.contract import declared, generation, learning, state, visibility
from hierlm.contract.case import Case, NotConcernedError
from hierlm.contract.checks import MATHEMATICS, Check
from tests.models.zoo import TINY, tiny_part

MADE_OF_BLOCKS = ("transformer", "hourglass", "dynamic_pooling", "top_down", "bottom_up", "retina", "lmu")
HEADS = {"num_heads": 4}
ALONE: dict[str, dict[str, Any]] = {
    "rms": {"norm": "rms", "norm_epsilon": 1e-6},
    "layer-norm-without-bias": {"biases": False},
    "post": {"block_order": "post"},
    "pre": {"block_order": "pre"},
    "reordered": {"block_order": "reordered"},
    "relu2": {"feed_forward": "relu2"},
    "swiglu": {"feed_forward": "swiglu"},
    "grouped": {**HEADS, "num_kv_heads": 2},
    "one-kv-head": {**HEADS, "num_kv_heads": 1},
    "head-norm": {"qk_norm": "head"},
    "vector-norm": {**HEADS, "qk_norm": "vector", "num_kv_heads": 2},
    "base": {"rotary_base": 500_000.0},
    "interleaved": {"rotary_layout": "interleaved"},
    "soft-cap": {"logit_soft_cap": 3.0},
    "llama": {"initialisation": "llama"},
    "fan-in": {"initialisation": "fan_in", "depth_scaling": "none"},
    "by-layer": {"depth_scaling": "layer"},
    "zero": {"depth_scaling": "zero"},
}
MIXTURES: dict[str, dict[str, Any]] = {
    "modern": {**HEADS, "preset": "modern", "num_kv_heads": 2, "logit_soft_cap": 4.0},
    "reordered": {
        **HEADS,
        "block_order": "reordered",
        "feed_forward": "relu2",
        "biases": False,
        "qk_norm": "vector",
        "num_kv_heads": 2,
        "rotary_layout": "interleaved",
        "initialisation": "fan_in",
        "depth_scaling": "layer",
    },
    "post": {
        **HEADS,
        "block_order": "post",
        "norm": "rms",
        "feed_forward": "swiglu",
        "num_kv_heads": 1,
        "qk_norm": "head",
        "initialisation": "llama",
        "depth_scaling": "zero",
        "logit_soft_cap": 3.0,
    },
}
ROTARY = ("rotary_base", "rotary_layout")
QUICK: tuple[Check, ...] = (
    declared.number_of_parameters_is_known,
    declared.length_of_the_list_is_known,
    declared.tensor_plan_names_every_weight_once,
    declared.weights_depend_on_seed_and_place_only,
    visibility.no_logit_depends_on_a_later_token,
    visibility.every_past_token_matters,
    visibility.rows_do_not_touch,
    state.forward_is_the_fold_over_the_list,
    generation.generation_equals_the_forward_pass,
    generation.generation_costs_less,
    learning.runs_forwards_and_backwards_in_bf16,
    learning.every_weight_gets_a_gradient,
)
ALL: tuple[Check, ...] = tuple(check for check in MATHEMATICS if check is not declared.config_is_read_without_torch)


@cache
def case(name: str, label: str) -> Case:
    """An architecture's tiny size with an option or a mixture, what it has no use for left out."""
    fields = MIXTURES[label] if label in MIXTURES else ALONE[label]
    unused = ROTARY if name == "lmu" else ()
    part = {**tiny_part(name), **{field: value for field, value in fields.items() if field not in unused}}
    if name == "lmu":
        part |= {"global_attention": True}
    if name == "dynamic_pooling":
        part |= {"positions": "rotary", "max_groups": 16}
    return Case(part)


def keeps(check: Check, name: str, label: str) -> None:
    try:
        check(case(name, label))
    except NotConcernedError as reason:
        pytest.skip(str(reason))


def of_mixtures() -> list[Any]:
    """Every check of every mixture, the quick ones of a mixture of each architecture's own in `make test`."""
    found = []
    for place, name in enumerate(MADE_OF_BLOCKS):
        for number, label in enumerate(MIXTURES):
            is_in_turn = label == "modern" or number == 1 + place % 2
            is_fast = label == "modern" and name in ("transformer", "hourglass")
            marks = [] if is_fast else [pytest.mark.slow] if is_in_turn else [pytest.mark.matrix]
            found.append(pytest.param(name, label, id=f"{name}-{label}", marks=marks))
    return found


@pytest.mark.parametrize("check", QUICK, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("name", "label"), of_mixtures())
def test_a_mixture_keeps_the_contract(check: Check, name: str, label: str) -> None:
    keeps(check, name, label)


@pytest.mark.matrix
@pytest.mark.parametrize("check", [c for c in ALL if c not in QUICK], ids=lambda check: check.__name__)
@pytest.mark.parametrize("label", MIXTURES)
@pytest.mark.parametrize("name", MADE_OF_BLOCKS)
def test_a_mixture_keeps_all_of_it(check: Check, name: str, label: str) -> None:
    keeps(check, name, label)


@pytest.mark.matrix
@pytest.mark.parametrize("check", ALL, ids=lambda check: check.__name__)
@pytest.mark.parametrize("label", ALONE)
@pytest.mark.parametrize("name", MADE_OF_BLOCKS)
def test_an_option_by_itself_keeps_all_of_it(check: Check, name: str, label: str) -> None:
    if name == "lmu" and label in ("base", "interleaved"):
        pytest.skip("its attention has no positions")
    keeps(check, name, label)


@pytest.mark.slow
def test_the_modern_transformer_learns() -> None:
    keeps(learning.learns_64_tokens_by_heart, "transformer", "modern")
    keeps(state.recompute_changes_nothing, "transformer", "modern")


# The preset


def test_a_preset_fills_in_what_is_not_written() -> None:
    config = models.architecture("transformer").Config(
        arch="transformer", preset="modern", hidden_dim=96, num_heads=4, num_layers=2, norm_epsilon=1e-5
    )
    assert (config.norm, config.feed_forward, config.qk_norm, config.biases) == ("rms", "swiglu", "head", False)
    assert config.norm_epsilon == 1e-5, "what is written wins"
    assert config.ffn_dim == 256  # 8/3 x 96, a multiple of 64


@pytest.mark.parametrize("name", MADE_OF_BLOCKS)
def test_a_resolved_config_is_read_back_equal_and_needs_no_preset(name: str) -> None:
    config = load_config(TINY / f"{name}.yaml", ["model.preset=modern"])
    plain = plain_config(config)
    assert check_mapping(plain)[0] == config
    model = {field: value for field, value in plain["model"].items() if field != "preset"}
    again, problems = check_mapping({**plain, "model": model})
    assert not problems and again is not None
    assert again.model.model_copy(update={"preset": "modern"}) == config.model


@pytest.mark.parametrize("name", MADE_OF_BLOCKS)
def test_without_a_preset_nothing_changes(name: str) -> None:
    config: Any = load_config(TINY / f"{name}.yaml").model
    assert (config.norm, config.qk_norm, config.biases, config.z_loss) == ("layer", "none", True, 0.0)
    assert config.block_order == ("post" if name == "dynamic_pooling" else "pre")


# What is refused

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("transformer", {"num_heads": 4, "num_kv_heads": 3}, r"num_kv_heads 3 must divide num_heads 4"),
    ("transformer", {"positions": "sinusoidal", "rotary_base": 5e5}, r"rotary_base: for positions rotary"),
    ("transformer", {"activation": "relu", "feed_forward": "swiglu"}, r"write one of them"),
    ("transformer", {"ffn_ratio": 3.0}, r"ffn_dim \d+ is not what ffn_ratio"),
    ("transformer", {"num_heads": 4, "num_kv_heads": 2, "attention_windows": (3, 0)}, r"attention_windows"),
    ("lmu", {"num_kv_heads": 1}, r"global_attention: true"),
    ("lmu", {"rotary_base": 5e5}, r"rotary_base"),
    ("lstm", {"preset": "modern"}, r"preset"),
]


@pytest.mark.parametrize(("name", "fields", "said"), REFUSED)
def test_what_an_architecture_cannot_have_is_refused_by_name(name: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        models.architecture(name).Config.model_validate({**tiny_part(name), **fields})


def test_a_missing_width_says_what_to_write() -> None:
    part = {field: value for field, value in tiny_part("transformer").items() if field != "ffn_dim"}
    written = {**plain_config(load_config(TINY / "transformer.yaml")), "model": part}
    [problem] = check_mapping(written)[1]
    assert problem.path == "model.ffn_dim" and "ffn_ratio" in problem.text
    written["model"] = {**part, "ffn_ratio": 4}
    config, problems = check_mapping(written)
    assert not problems and config is not None and config.model.ffn_dim == 4 * part["hidden_dim"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.num_heads=6", "model.hidden_dim=24", "model.ffn_dim=48", "model.num_kv_heads=3"], "num_kv_heads 3"),
        (["model.qk_norm=vector"], "model.qk_norm: given vector with parallel.tensor_parallel_degree 2"),
    ],
)
def test_layouts_that_cut_a_head_or_a_norm_are_refused(words: list[str], said: str) -> None:
    from hierlm.errors import UserError

    with pytest.raises(UserError, match=said):
        load_config(TINY / "transformer.yaml", [*words, "parallel.tensor_parallel_degree=2"])
