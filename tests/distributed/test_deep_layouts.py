"""Deep models train the same on every layout: losses, gradient norms and the first moment of every parameter."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from hierlm import models
from hierlm.config.load import load_config
from hierlm.models.assembly import canonical_names, layer_specs
from hierlm.models.config import ModelConfig
from tests.distributed.deep_models import MODELS, even_cut, kinds_of
from tests.distributed.runs import ALONE, Layout, Outcome, Run, Together, compared, differences

FOUR_STAGES, SLICED, COPIED = Layout(1, 1, 4), Layout(1, 2, 2, zero=1), Layout(2, 1, 2, zero=1)
WITHOUT_FOUR_STAGES, WITHOUT_STAGES = Layout(2, 2, 1, zero=2), Layout(4, 1, 1, zero=3)
QUICK = {
    ("transformer-tied", FOUR_STAGES),
    ("hourglass", SLICED),
    ("top_down-tied", COPIED),
    ("bottom_up-tied", FOUR_STAGES),
    ("retina-tied", SLICED),
    ("dynamic_pooling", FOUR_STAGES),
    ("transformer_xl-tied", FOUR_STAGES),
    ("skip_cross_head_xl-tied", COPIED),
    ("lmu", FOUR_STAGES),
    ("lstm", COPIED),
    ("hm_lstm", SLICED),
    ("recurrent_memory_transformer-tied", COPIED),
}
"""What `make test` runs: every architecture somewhere, tied where it can be; `make matrix` runs everything."""
PHASES = (
    "phases=[{{name: all, duration: {{steps: 1}}, sequence_length: 21, global_batch_size: 8,"
    " learning_rate: {{peak: 0.01, decay: constant}}}},"
    " {{name: some, duration: {{steps: 2}}, trainable: {trainable}}},"
    " {{name: again, duration: {{steps: 1}}, trainable: null}}]"
)
SETTINGS = (
    "optim.gradient_clip=0.5",
    # Adam divides a gradient by its size: with an eps below rounding, entries that are nothing but rounding move as far
    # as all others, and layouts differ by that after two steps
    "optim.eps=0.01",
    "train.precision=fp32",
)
RESTARTS = {1: (3,), 2: (0, 6)}


def model_config(name: str) -> ModelConfig:
    model = MODELS[name]
    config: ModelConfig = load_config(f"configs/tiny/{model.arch}.yaml", [*model.words, *SETTINGS]).model
    return config


def run_of(name: str, layout: Layout) -> Run:
    """In its second phase it trains every other layer: what is tied lives in the first two, and is frozen."""
    config, model = model_config(name), MODELS[name]
    inside = "" if len(layer_specs(config)) > 2 else "0[.]blocks[.]"
    phases = PHASES.format(trainable=[f"layers[.]{inside}[0-9]*[2468]"])
    cut = even_cut(config, num_stages=4) if layout.pp == 4 else "cost"
    neutral = ("parallel.micro_batch_size=2", f"parallel.stage_cut={cut}")
    return Run(model.arch, (*model.words, *SETTINGS, phases), layout, neutral=neutral, restarts=RESTARTS)


def layouts_of(name: str) -> list[Layout]:
    """All that the model has, and one or two with as many processes for those that have no four stages."""
    model = MODELS[name]
    wanted = [FOUR_STAGES, SLICED, COPIED]
    wanted += [WITHOUT_FOUR_STAGES, WITHOUT_STAGES] if model.most_stages < 4 else []
    return [layout for layout in wanted if layout.pp <= model.most_stages and (layout.tp == 1 or model.is_sliced)]


def cases() -> list[Any]:
    found = []
    for name in MODELS:
        for layout in layouts_of(name):
            marks = [pytest.mark.slow if (name, layout) in QUICK else pytest.mark.matrix]
            found.append(pytest.param(name, layout, marks=marks, id=f"{name}-{layout}"))
    return found


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Together:
    """The outcome of every run that the chosen tests compare."""
    runs = {}
    for given in compared(request):
        name, layout = given["name"], given["layout"]
        run = run_of(name, layout)
        runs |= {(name, ALONE): run.alone, (name, layout): run}
    return Together(runs, tmp_path_factory.mktemp("deep"))


@pytest.mark.distributed
@pytest.mark.parametrize(("name", "layout"), cases())
def test_losses_norms_and_moments_equal_one_process(name: str, layout: Layout, made: Together) -> None:
    alone, found = made[name, ALONE], made[name, layout]
    wrong = differences(found, alone, moments_within=MODELS[name].moments_within)
    assert not wrong, "\n".join([str(run_of(name, layout)), *wrong])
    assert isinstance(found, Outcome) and set(found.moments) == set(canonical_names(model_config(name)))


def test_a_difference_of_any_kind_is_told() -> None:
    outcome = Outcome([(1.0, 2.0), (0.5, 1.0)], [3.0], {"a": torch.ones(3), "b": torch.full((2,), 1e-9)})
    assert differences(outcome, outcome) == []
    noise = outcome._replace(moments=outcome.moments | {"b": torch.full((2,), 8e-9)})
    assert differences(noise, outcome) == []
    others = [
        outcome._replace(steps=[(1.0, 2.0), (0.5, 1.0 + 3e-5)]),
        outcome._replace(nats=[3.0001]),
        outcome._replace(moments=outcome.moments | {"a": torch.tensor([1, 1, 1 + 3e-5])}),
        outcome._replace(moments=outcome.moments | {"b": torch.tensor([float("nan"), 0])}),
        outcome._replace(moments={"a": torch.ones(3)}),
        "rank 3 died",
    ]
    assert all(len(differences(other, outcome)) == 1 for other in others)


def test_every_architecture_is_here_and_quickly() -> None:
    quick = {MODELS[name].arch for name, layout in QUICK if layout in layouts_of(name)}
    assert quick == {model.arch for model in MODELS.values()} == set(models.names())


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.most_stages == 4])
def test_each_of_four_stages_holds_three_layers_of_the_kind_that_makes_the_depth(name: str) -> None:
    config = model_config(name)
    kinds = kinds_of(config)
    most = max(kinds, key=kinds.count)
    cut = [0, *even_cut(config, num_stages=4), len(kinds)]
    of_stages = [kinds[first:end].count(most) for first, end in pairwise(cut)]
    assert min(of_stages) >= 3 or (MODELS[name].arch == "hm_lstm" and len(kinds) == 4)  # whose levels are one layer
