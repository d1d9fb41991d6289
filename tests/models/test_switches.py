"""What a phase's switches reach: the sites and the settings that a model declares for them, and nothing else."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hierlm import models
from hierlm.models.assembly import LanguageModel, layer_specs
from hierlm.nn.basic.dropout import Dropout
from hierlm.nn.layer import StepContext, build_layer
from hierlm.nn.stream import Stream
from tests.models.zoo import CASES, tiny_part

RATES = st.floats(min_value=0, max_value=0.95)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "dropout": RATES,
    "attention_dropout": RATES,
    "feed_forward_dropout": RATES,
    "memory_length": st.integers(min_value=0, max_value=9),
    "layer_skip": st.sampled_from(["ramp", "uniform", "off"]),
    "skip_probability": RATES,
    "cross_head_probability": RATES,
    "bptt_depth": st.integers(min_value=0, max_value=3),
    "carry_memory": st.booleans(),
    "slope": st.floats(min_value=1, max_value=5),
    "shorten_factors": st.sampled_from([(), (2,), (2, 3)]),
}
"""Every switch that any architecture has, with values it may take."""

SETTINGS = {
    "memory_length": {"training_memory_length"},
    "layer_skip": {"is_skipped"},
    "skip_probability": {"is_skipped"},
    "cross_head_probability": {"head_order"},
    "bptt_depth": {"bptt_depth"},
    "carry_memory": {"carry_memory"},
    "slope": {"slope"},
    "shorten_factors": {"_drawn"},
}
"""Switch -> attributes that follow it; the others are rates of dropout."""

STRUCTURE: dict[str, dict[str, list[object]]] = {
    "transformer": {"num_layers": [1, 3], "sandwich": [0, 1], "positions": ["rotary", "relative"]},
    "transformer_xl": {
        "num_layers": [1, 3],
        "pre_norm": [False, True],
        "cutoffs": [[], [10, 90]],
        "embedding_dropout": [None, 0.3],
    },
    "skip_cross_head_xl": {"num_layers": [1, 3], "pre_norm": [False, True]},
    "recurrent_memory_transformer": {"num_layers": [1, 2], "pre_norm": [False, True], "num_memory_tokens": [0, 3]},
    "hourglass": {
        "shortening": ["average", "linear", "attention"],
        "shortening_query": ["average", "linear"],
        "upsampling": ["repeat", "linear", "attention"],
        "upsampling_query": ["saved", "repeat", "linear"],
    },
    "dynamic_pooling": {"boundaries": ["fixed", "whitespace", "entropy", "gumbel"]},
    "bottom_up": {"downsampling": ["average", "convolution", "linear"]},
    "top_down": {"downsampling": ["average", "convolution", "linear"], "upsampling": ["repeat", "linear"]},
    "retina": {"downsampling": ["average", "convolution", "linear"]},
    "lmu": {"global_attention": [False, True], "num_layers": [1, 2]},
    "lstm": {"num_layers": [1, 3]},
}


@st.composite
def configs_and_switches(draw: st.DrawFn) -> tuple[Any, dict[str, object], dict[str, object]]:
    """(config, the switches of two phases): each phase's part over the model's own values."""
    name, index = draw(st.sampled_from(CASES))
    part = tiny_part(name, index)
    for field, choices in STRUCTURE.get(name, {}).items():
        part = part | ({field: draw(st.sampled_from(choices))} if draw(st.booleans()) else {})
    kind = models.architecture(name).Config
    switches = sorted(kind.train_switches())
    part = part | {switch: draw(VALUES[switch]) for switch in switches if draw(st.booleans())}
    phases = [{switch: draw(VALUES[switch]) for switch in switches if draw(st.booleans())} for _ in range(2)]
    try:
        config = kind.model_validate(part)
        for phase in phases:
            kind.model_validate(part | phase)
    except ValidationError:
        assume(False)
    own = {switch: getattr(config, switch) for switch in switches}
    return config, own | phases[0], own | phases[1]


def attributes(model: torch.nn.Module) -> dict[tuple[str, str], Any]:
    """(path, name) -> all that any module holds, down into plain objects of ours; of tensors what tells a change."""
    return {
        (path, name): _told(value)
        for path, module in model.named_modules()
        for name, value in _own(module).items()
        if not isinstance(value, torch.nn.Module)
    }


def _own(holder: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in vars(holder).items():
        if name in ("_parameters", "_buffers"):
            found |= value
        elif name != "_modules":
            is_ours = type(value).__module__.startswith("hierlm.") and not isinstance(value, torch.nn.Module)
            found |= _own(value) if is_ours and hasattr(value, "__dict__") else {name: value}
    return found


def _told(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        shown = None if value.is_meta else value.tolist()
        return id(value) if value.is_meta else "tensor", value._version, value.requires_grad, shown
    return repr(value)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=configs_and_switches(), step=st.integers(min_value=0, max_value=10**6))
def test_a_step_changes_exactly_what_is_declared_for_its_switches(case: Any, step: int) -> None:
    config, before, after = case
    with torch.device("meta"):
        model = LanguageModel(config, seed=0)
    begin(model, StepContext(step, 1, before))
    known = attributes(model)
    begin(model, StepContext(step, 1, after))
    found = attributes(model)

    assert known.keys() == found.keys()
    sites = {path: module for path, module in model.named_modules() if isinstance(module, Dropout)}
    assert all(site.rate == after[site.switch] for site in sites.values() if site.switch in after)
    allowed = {(path, "rate") for path, site in sites.items() if after.get(site.switch) != before.get(site.switch)}
    settings_moved = {
        name for switch, names in SETTINGS.items() if before.get(switch) != after.get(switch) for name in names
    }
    changed = {where for where in known if known[where] != found[where]}
    assert {where for where in changed if where[1] not in settings_moved} == allowed


def begin(model: LanguageModel, context: StepContext) -> None:
    for layer in model.layers:
        layer.begin_step(context)


def test_every_switch_of_every_architecture_is_tried() -> None:
    switches = {name for arch in models.names() for name in models.architecture(arch).Config.train_switches()}
    assert switches == set(VALUES)
    assert {name for name in switches if name not in SETTINGS} == {n for n in VALUES if n.endswith("dropout")}


@pytest.mark.parametrize(
    ("fields", "kind", "drops"),
    [
        ({"shortening": "average", "upsampling": "repeat"}, "Shorten", False),
        ({"shortening": "average", "upsampling": "repeat"}, "Upsample", False),
        ({"shortening": "linear", "upsampling": "linear"}, "Shorten", True),
        ({"shortening": "linear", "upsampling": "linear"}, "Upsample", True),
        ({"shortening": "attention", "upsampling": "attention"}, "Shorten", True),
        ({"shortening": "attention", "upsampling": "attention"}, "Upsample", True),
    ],
)
def test_resampling_drops_only_where_weights_write(fields: dict[str, object], kind: str, drops: bool) -> None:
    """A pooled vector without weights stays whole, whatever the phase's rate (2110.13711, section 2)."""
    part = tiny_part("hourglass") | {"hierarchy": "1@1 1@2 1@1", "dropout": 0.3} | fields
    specs = layer_specs(models.architecture("hourglass").Config.model_validate(part))
    built = [build_layer(spec, seed=0, index=index) for index, spec in enumerate(specs)]
    [layer] = [layer for layer in built if type(layer).__name__ == kind]
    layer.begin_step(StepContext(0, 0, {"dropout": 0.5}))
    fine, coarse = torch.randn(2, 8, 64), torch.randn(2, 4, 64)
    stream = Stream((fine,)) if kind == "Shorten" else Stream((fine, coarse))
    expected = layer.eval()(stream)[0].hidden
    found = layer.train()(stream)[0].hidden
    assert torch.equal(found, expected) == (not drops)
