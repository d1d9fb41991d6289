"""The losses and gradient norms of six steps do not depend on the layout."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from hierlm.config.load import load_config
from hierlm.errors import UserError
from hierlm.models.assembly import is_recurrent
from hierlm.nn.kernels import linear, prefix_attention
from hierlm.phases.timeline import Timeline
from tests.distributed.spawn import RankFailedError, run_ranks

STEPS = 6
RELATIVE = 1e-5
VALUES_RELATIVE = 1e-4
"""Of single values of a remembered activation, which sum up fewer terms than a loss does."""

HOURGLASS = "model.hierarchy='1@1 1@2 2@4 1@2 1@1'"
SKIPPING = ["model.num_layers=3", "model.memory_length=30", "model.layer_skip=uniform", "model.skip_probability=0.4"]
MODELS = {
    "transformer": ["model.num_layers=2"],
    "transformer-tied": ["model.num_layers=2", "model.tie_embeddings=true"],
    "hourglass": [HOURGLASS],
    "hourglass-relative": [
        HOURGLASS,
        "model.positions=relative",
        "model.shortening=linear",
        "model.upsampling=linear",
    ],
    "transformer_xl": ["model.num_layers=2", "model.memory_length=30"],
    "transformer_xl-shared": ["model.num_layers=2", "model.memory_length=30", "model.share_position_biases=true"],
    "skip_cross_head_xl": [*SKIPPING, "model.cross_head_probability=0.5"],
    "skip_cross_head_xl-uncrossed": [*SKIPPING, "model.cross_head_probability=0"],
    "recurrent_memory_transformer": ["model.num_layers=2", "model.bptt_depth=2"],
}
LAYOUTS = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1), (2, 1, 2), (1, 2, 2), (2, 2, 2)]
SOME = [((1, 2, 1), 0), ((1, 1, 2), 0), ((2, 1, 1), 2), ((2, 2, 1), 3), ((2, 2, 2), 1)]
TESTED_IN = {
    "transformer-tied": [*SOME, ((1, 2, 2), 1)],
    "hourglass-relative": SOME,
    "transformer_xl-shared": SOME,
    "skip_cross_head_xl": [(where, zero) for where, zero in SOME if where[1] == 1],  # heads of all ranks: see below
    "skip_cross_head_xl-uncrossed": SOME,
    "recurrent_memory_transformer": SOME,
}
"""Models that are not run at every layout and stage."""
QUICK = {
    ("transformer-tied", (1, 2, 2), 1),
    ("hourglass", (2, 1, 2), 1),
    ("transformer", (2, 2, 1), 3),
    ("transformer_xl", (1, 2, 2), 1),
}


def cases() -> list[Any]:
    everywhere = [(where, zero) for where in LAYOUTS for zero in range(num_stages(where))]
    found = []
    for model in MODELS:
        for layout, zero in TESTED_IN.get(model, everywhere):
            marks = [] if (model, layout, zero) in QUICK else [pytest.mark.slow]
            if not is_in_turn(model, layout, zero):
                marks.append(pytest.mark.matrix)
            name = f"{model}-dp{layout[0]}-tp{layout[1]}-pp{layout[2]}-zero{zero}"
            found.append(pytest.param(model, layout, zero, marks=marks, id=name))
    return found


def num_stages(layout: tuple[int, int, int]) -> int:
    """Of ZeRO: a pipeline takes 0 and 1."""
    return 2 if layout[2] > 1 else 4


def is_in_turn(model: str, layout: tuple[int, int, int], zero: int) -> bool:
    """Whether `make test` runs it: every second layout of a model, with one stage each; `make matrix` runs all."""
    if model not in TESTED_IN:
        is_second = (list(MODELS).index(model) // 2 + LAYOUTS.index(layout)) % 2 == 0
        return (is_second or (model, layout, zero) in QUICK) and zero == in_turn(model, layout)
    is_second = (SOME.index((layout, zero)) + list(MODELS).index(model)) % 2 == 0 if (layout, zero) in SOME else False
    return is_second or (model, layout, zero) in QUICK


def in_turn(model: str, layout: tuple[int, int, int]) -> int:
    """The stage that `make test` runs: another for each model, so that every layout meets most of its stages."""
    quick = [zero for name, where, zero in QUICK if (name, where) == (model, layout)]
    return quick[0] if quick else (list(MODELS).index(model) + LAYOUTS.index(layout)) % num_stages(layout)


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
    timeline, steps, recurrent = Timeline(config.phases), [], is_recurrent(config.model)
    mine = list(engine.local_rows(config.phases[0].global_batch_size))
    for step in range(STEPS):
        moment = timeline.at(step)
        tokens, targets = rows(moment.phase.global_batch_size, moment.phase.sequence_length, seed=step)
        starts = torch.tensor(
            [step == 0 or (row == 3 and step == 4) for row in mine]
        )  # one lane begins anew on the way
        forget = {"starts": starts} if recurrent else {}
        result = engine.train_step(tokens[mine], targets[mine], moment=moment, **forget)
        steps.append((engine.global_mean(result.loss), float(result.grad_norm)))
        if step == 2:
            nats = engine.evaluate(*rows(4, 15, seed=1000))  # other shapes in between
            nats = torch.cat([nats, engine.evaluate(*rows(4, 15, seed=1001), continues=recurrent)])
    memory = held_here(engine._passes.training_lanes, first_row=mine[0])
    return {"steps": steps, "nats": nats.tolist(), "memory": memory, "arch": config.model.arch}


def train_with_onednn(model: str, overrides: list[str]) -> Any:
    """Every product of a linear layer and all attention as on an AMD processor with AVX-512, however small."""
    linear.LEAST_MULTIPLICATIONS, linear.has_slow_blas = 1, lambda: True  # type: ignore[assignment]
    prefix_attention.ENOUGH_KEY_NUMBERS, prefix_attention.ENOUGH_QUERIES, prefix_attention.MOST_QUERIES = 1, 4, 4
    prefix_attention.LEAST_QUERIES = 4
    prefix_attention.leaves_avx512_idle = lambda: True  # type: ignore[assignment]
    made, times = {module: 0 for module in (linear, prefix_attention)}, linear.times

    def counting(module: Any, *of: Any) -> torch.Tensor:
        made[module] += 1
        return times(*of)

    for module in made:
        module.times = partial(counting, module)  # type: ignore[attr-defined]
    return {**train(model, overrides, None), "num_products": list(made.values())}


def rows(count: int, length: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    whole = torch.randint(0, 97, (count, length + 1), generator=torch.Generator().manual_seed(seed))
    return whole[:, :-1], whole[:, 1:]


def held_here(lanes: Any, *, first_row: int) -> dict[tuple[int, int, int], Any]:
    """(global row, layer, place in its memory) -> values; plain arrays, for tensors do not outlive their process."""
    memories = {} if lanes.is_empty else lanes.state_by_global_row(first_row=first_row).memories
    return {
        (row, layer, place): values.numpy()
        for layer, tensors in memories.items()
        for place, tensor in enumerate(tensors)
        for row, values in enumerate(tensor, start=first_row)
    }


def run(model: str, layout: tuple[int, int, int], zero: int, **kwargs: Any) -> list[Any]:
    dp, tp, pp = layout
    return run_ranks(train, dp * tp * pp, model, settings(model, layout, zero), kwargs.get("broken_plan"))


@pytest.fixture(scope="module")
def single() -> Any:
    """The single process's run of a model, made once."""
    known: dict[str, Any] = {}

    def of(model: str) -> Any:
        if model not in known:
            [known[model]] = run(model, (1, 1, 1), 0)
        return known[model]

    return of


@pytest.mark.distributed
@pytest.mark.parametrize(("model", "layout", "zero"), cases())
def test_losses_and_norms_equal_the_single_process(
    model: str, layout: tuple[int, int, int], zero: int, single: Any
) -> None:
    expected, every_rank = single(model), run(model, layout, zero)
    for found in every_rank:
        for key in ("steps", "nats"):
            torch.testing.assert_close(
                torch.tensor(found[key]),
                torch.tensor(expected[key]),
                rtol=RELATIVE,
                atol=0,
                msg=lambda m, k=key: f"{k}: {m}",
            )
    assert_same_memory(every_rank, expected, tp_degree=layout[1])


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "zero"), [((1, 1, 1), 0), ((2, 1, 1), 3), pytest.param((1, 1, 2), 1, marks=pytest.mark.matrix)]
)
@pytest.mark.skipif(linear.fused_product is None, reason="this build of torch has no oneDNN")
def test_products_of_another_library_make_no_difference(layout: tuple[int, int, int], zero: int, single: Any) -> None:
    expected = torch.tensor(single("hourglass")["steps"])
    overrides = [*settings("hourglass", layout, zero), "parallel.activation_recompute=selective"]
    for found in run_ranks(train_with_onednn, layout[0] * layout[2], "hourglass", overrides):
        assert min(found["num_products"]) > STEPS
        torch.testing.assert_close(torch.tensor(found["steps"]), expected, rtol=RELATIVE, atol=0)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["selective", pytest.param("full", marks=pytest.mark.matrix)])
def test_what_stage_3_computes_again_is_what_it_computed_first(recompute: str, single: Any) -> None:
    """Its own linear function, which DeepSpeed puts in place of torch's, adds biases: once, not once more."""
    overrides = [*settings("transformer", (2, 1, 1), 3), f"parallel.activation_recompute={recompute}"]
    for found in run_ranks(train, 2, "transformer", overrides, None):
        torch.testing.assert_close(
            torch.tensor(found["steps"]), torch.tensor(single("transformer")["steps"]), rtol=RELATIVE, atol=0
        )


def assert_same_memory(every_rank: list[Any], expected: Any, *, tp_degree: int) -> None:
    """Tensor-parallel ranks remember the same to the last bit; what they remember is that of the single process."""
    alone, by_key = expected["memory"], dict[Any, list[Any]]()
    for rank in every_rank:
        for key, values in rank["memory"].items():
            by_key.setdefault(key, []).append(values)
    assert bool(alone) is ("xl" in expected["arch"] or "memory" in expected["arch"])  # else this would compare nothing
    assert by_key.keys() == alone.keys()
    for key, copies in by_key.items():
        assert len(copies) == tp_degree
        assert all((copies[0] == other).all() for other in copies[1:]), key
        np.testing.assert_allclose(copies[0], alone[key], rtol=VALUES_RELATIVE, atol=VALUES_RELATIVE)


def test_permuting_heads_of_all_ranks_is_refused_under_tensor_parallelism() -> None:
    with pytest.raises(UserError, match=r"tensor_parallel_degree: given 2 .* permutes heads of all ranks"):
        load_config("configs/tiny/skip_cross_head_xl.yaml", settings("skip_cross_head_xl", (1, 2, 1), 0))


@pytest.mark.distributed
@pytest.mark.parametrize(
    "first_layer",
    [7, *(pytest.param(k, marks=pytest.mark.slow) for k in (4, 10, 16))]
    + [pytest.param(k, marks=pytest.mark.matrix) for k in (1, 5, 9, 13)],
)
def test_a_pipeline_may_be_cut_anywhere(first_layer: int, single: Any) -> None:
    """Between any two layers, with one, two or three levels on the way."""
    overrides = [*settings("hourglass", (1, 1, 2), 1), f"parallel.stage_cut=[{first_layer}]"]
    for found in run_ranks(train, 2, "hourglass", overrides, None):
        torch.testing.assert_close(
            torch.tensor(found["steps"]), torch.tensor(single("hourglass")["steps"]), rtol=RELATIVE, atol=0
        )


@pytest.mark.distributed
def test_a_projection_left_whole_does_not_fit_its_neighbours() -> None:
    with pytest.raises(RankFailedError, match=r"must match the size|Number of heads"):
        run("transformer", (1, 2, 1), 1, broken_plan={r"layers\.2\.attention\.key": "replicate"})


@pytest.mark.distributed
def test_whole_weights_treated_as_parts_of_one_give_other_losses(single: Any) -> None:
    broken_plan = {r"layers\.2\.feed_forward\.(expand|contract)": "partial"}
    expected = torch.tensor(single("transformer")["steps"])
    for rank in run("transformer", (1, 2, 1), 1, broken_plan=broken_plan):
        with pytest.raises(AssertionError):
            torch.testing.assert_close(torch.tensor(rank["steps"]), expected, rtol=RELATIVE, atol=0)
