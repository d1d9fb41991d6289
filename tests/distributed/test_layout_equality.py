"""The losses and gradient norms of ten steps do not depend on the layout."""

from typing import Any

import pytest
import torch

from hierlm.config.load import load_config
from hierlm.phases.timeline import Timeline
from tests.distributed.spawn import RankFailedError, run_ranks

STEPS = 10
RELATIVE = 1e-5

MODELS = {
    "transformer": ["model.num_layers=2"],
    "transformer-tied": ["model.num_layers=2", "model.tie_embeddings=true"],
    "hourglass": ["model.hierarchy='1@1 1@2 2@4 1@2 1@1'"],
    "hourglass-relative": [
        "model.hierarchy='1@1 1@2 2@4 1@2 1@1'",
        "model.positions=relative",
        "model.shortening=linear",
        "model.upsampling=linear",
    ],
}
LAYOUTS = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1), (2, 1, 2), (1, 2, 2), (2, 2, 2)]
QUICK = {
    ("transformer-tied", (1, 2, 2), 1),
    ("hourglass", (2, 1, 2), 1),
    ("hourglass", (1, 2, 1), 0),
    ("transformer", (2, 2, 1), 3),
}


def cases() -> list[Any]:
    found = []
    for model in MODELS:
        for layout in LAYOUTS:
            for zero in range(2 if layout[2] > 1 else 4):
                marks = [] if (model, layout, zero) in QUICK else [pytest.mark.slow]
                name = f"{model}-dp{layout[0]}-tp{layout[1]}-pp{layout[2]}-zero{zero}"
                found.append(pytest.param(model, layout, zero, marks=marks, id=name))
    return found


def settings(model: str, layout: tuple[int, int, int], zero: int) -> list[str]:
    dp, tp, pp = layout
    return [
        *MODELS[model],
        "model.vocab_size=97",  # odd: every tensor-parallel degree has to pad
        "model.hidden_dim=32",
        "model.ffn_dim=48",
        "model.num_heads=4",
        "phases.0.sequence_length=22",  # no multiple of the shorten factors
        "phases.0.global_batch_size=8",
        "parallel.micro_batch_size=2",
        f"parallel.data_parallel_degree={dp}",
        f"parallel.tensor_parallel_degree={tp}",
        f"parallel.pipeline_parallel_degree={pp}",
        f"parallel.zero_stage={zero}",
        "optim.gradient_clip=0.5",
        "train.precision=fp32",
    ]


def train(model: str, overrides: list[str], broken_plan: dict[str, str] | None) -> Any:
    """On one rank: loss and gradient norm of every step, nats of an evaluation, gradients of replicated weights."""
    from hierlm import models
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    config = load_config(f"configs/tiny/{model.partition('-')[0]}.yaml", overrides)
    if broken_plan:
        module = models.architecture(config.model.arch)
        module.TENSOR_PLAN = {**broken_plan, **module.TENSOR_PLAN}  # the first match counts
    engine = Engine(config, process=start_processes())
    timeline, steps = Timeline(config.phases), []
    for step in range(STEPS):
        moment = timeline.at(step)
        tokens, targets = rows(moment.phase.global_batch_size, moment.phase.sequence_length, seed=step)
        mine = list(engine.local_rows(moment.phase.global_batch_size))
        result = engine.train_step(tokens[mine], targets[mine], moment=moment)
        steps.append((engine.global_mean(result.loss), float(result.grad_norm)))
        if step == 4:
            nats = engine.evaluate(*rows(4, 15, seed=1000))  # other shapes in between
    return {"steps": steps, "nats": nats.tolist()}


def rows(count: int, length: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    whole = torch.randint(0, 97, (count, length + 1), generator=torch.Generator().manual_seed(seed))
    return whole[:, :-1], whole[:, 1:]


def run(model: str, layout: tuple[int, int, int], zero: int, **kwargs: Any) -> list[Any]:
    dp, tp, pp = layout
    return run_ranks(train, dp * tp * pp, model, settings(model, layout, zero), kwargs.get("broken_plan"))


@pytest.fixture(scope="module")
def single() -> Any:
    """The single process's run of a model, made once."""
    known: dict[str, Any] = {}

    def of(model: str) -> Any:
        if model not in known:
            known[model] = run(model, (1, 1, 1), 0)[0]
        return known[model]

    return of


@pytest.mark.distributed
@pytest.mark.parametrize(("model", "layout", "zero"), cases())
def test_losses_and_norms_equal_the_single_process(
    model: str, layout: tuple[int, int, int], zero: int, single: Any
) -> None:
    expected = single(model)
    for found in run(model, layout, zero):
        for key in ("steps", "nats"):
            torch.testing.assert_close(
                torch.tensor(found[key]),
                torch.tensor(expected[key]),
                rtol=RELATIVE,
                atol=0,
                msg=lambda m, k=key: f"{k}: {m}",
            )


@pytest.mark.distributed
@pytest.mark.parametrize(
    "first_layer", [pytest.param(k, marks=[] if k == 7 else [pytest.mark.slow]) for k in (1, 4, 5, 7, 9, 10, 13, 16)]
)
def test_a_pipeline_may_be_cut_anywhere(first_layer: int, single: Any) -> None:
    """Between any two layers, with one, two or three levels on the way."""
    overrides = [*settings("hourglass", (1, 1, 2), 1), f"parallel.stage_cut=[{first_layer}]"]
    for found in run_ranks(train, 2, "hourglass", overrides, None):
        torch.testing.assert_close(
            torch.tensor(found["steps"]), torch.tensor(single("hourglass")["steps"]), rtol=RELATIVE, atol=0
        )


@pytest.mark.distributed
@pytest.mark.parametrize(
    "broken_plan",
    [
        pytest.param({r"layers\.2\.attention\.key": "replicate"}, id="one projection left whole"),
        pytest.param(
            {r"layers\.2\.feed_forward\.(expand|contract)": "partial"}, id="whole weights treated as parts of one"
        ),
    ],
)
def test_a_broken_tensor_plan_is_noticed(broken_plan: dict[str, str], single: Any) -> None:
    expected = torch.tensor(single("transformer")["steps"])
    try:
        found = run("transformer", (1, 2, 1), 1, broken_plan=broken_plan)
    except RankFailedError:
        return  # shapes no longer fit
    for rank in found:
        with pytest.raises(AssertionError):
            torch.testing.assert_close(torch.tensor(rank["steps"]), expected, rtol=RELATIVE, atol=0)
