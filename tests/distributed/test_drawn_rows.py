"""What a row draws is its own: losses and gradients equal for every micro-batch size and every layout, with dropout on.

Many models and layouts share the processes of one start, which are dearer than they are.
"""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from hierlm.config.load import load_config
from hierlm.phases.timeline import Timeline
from tests.distributed.spawn import end_groups, run_ranks

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

STEPS = 2
RELATIVE = 1e-5
SMALLEST = 1e-3
"""Of the largest gradient: some are zero by symmetry and hold noise."""

SIZES = [
    "phases.0.sequence_length=13",
    "phases.0.global_batch_size=8",
    "parallel.zero_stage=0",
    "train.precision=fp32",
    "optim.gradient_clip=1000",
    "phases.0.learning_rate={peak: 1.0e-6, final: 1.0e-7}",  # Adam's first steps would magnify rounding
    "model.vocab_size=97",
]
NARROW = ["model.hidden_dim=16", "model.num_heads=4", "model.ffn_dim=24", "model.dropout=0.3"]
EVERYWHERE = ["model.attention_dropout=0.3", "model.feed_forward_dropout=0.2"]
MODELS = {
    "transformer": [*NARROW, *EVERYWHERE, "model.num_layers=3", "model.attention_windows=[3,0]"],
    "transformer-relative": [
        *NARROW,
        *EVERYWHERE,
        "model.num_layers=2",
        "model.positions=relative",
        "model.sandwich=1",
    ],
    "hourglass": [*NARROW, "model.hierarchy='1@1 2@3 1@1'", "model.shortening=linear", "model.upsampling=linear"],
    "transformer_xl": [*NARROW, EVERYWHERE[0], "model.num_layers=3", "model.memory_length=9"],
    "skip_cross_head_xl": [
        *NARROW,
        "model.num_layers=3",
        "model.memory_length=9",
        "model.layer_skip=uniform",
        "model.cross_head_probability=0",
    ],
    "recurrent_memory_transformer": [*NARROW, "model.num_layers=2", "model.segment_length=5"],
    "dynamic_pooling": [*NARROW, "model.separators=[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]"],
    "dynamic_pooling-gumbel": [*NARROW, "model.boundaries=gumbel"],
    "bottom_up": NARROW,
    "top_down": NARROW,
    "retina": NARROW,
    "lmu": NARROW,
    "lstm": ["model.hidden_dim=16", "model.dropout=0.3"],
}
LAYOUTS = [(2, 1, 1), (1, 2, 1), (1, 1, 2)]
QUICK = [
    "transformer",
    "hourglass",
    "skip_cross_head_xl",
    "recurrent_memory_transformer",
    "dynamic_pooling-gumbel",
    "lmu",
]
"""One of each way to draw: by site, by level, by depth, by segment, by boundary, over time."""
NOT_CUT = {"dynamic_pooling", "dynamic_pooling-gumbel"}
"""Models that are refused a pipeline: the number of their groups varies."""


def trained(runs: list[tuple[str, list[str]]]) -> list[Any]:
    """On one rank, of each run: (losses and norms of every step, first moments by name, its place in the layout)."""
    import torch

    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    process, found = start_processes(), []
    for model, overrides in runs:
        config = load_config(f"configs/tiny/{model.partition('-')[0]}.yaml", overrides)
        engine = Engine(config, process=process)
        timeline, steps = Timeline(config.phases), []
        for step in range(STEPS):
            rows = torch.randint(0, 97, (8, 14), generator=torch.Generator().manual_seed(step))
            mine = rows[list(engine.local_rows(8))]
            result = engine.train_step(mine[:, :-1], mine[:, 1:], moment=timeline.at(step))
            steps.append((engine.global_mean(result.loss), float(result.grad_norm)))
        found.append((steps, _moments(engine), engine.groups.tp_rank))
        end_groups()
    return found


def _moments(engine: Any) -> dict[str, tuple[int | None, np.ndarray]]:
    """Name -> (the dimension cut over tensor-parallel ranks, values)."""
    states = engine._engine.basic_optimizer.state
    return {
        name: (
            parameter.partition_dim if getattr(parameter, "tensor_model_parallel", False) else None,
            states[parameter]["exp_avg"].numpy().copy(),
        )
        for name, parameter in engine.module.named_parameters()
    }


def runs_of(models: list[str], micro_batch_size: int, layout: tuple[int, int, int]) -> list[tuple[str, list[str]]]:
    degrees = [
        f"parallel.{axis}_parallel_degree={degree}"
        for axis, degree in zip(("data", "tensor", "pipeline"), layout, strict=True)
    ]
    words = [*SIZES, *degrees, f"parallel.micro_batch_size={micro_batch_size}"]
    return [(model, [*words, *MODELS[model]]) for model in models]


def run(runs: list[tuple[str, list[str]]], world_size: int) -> list[Any]:
    """Of each run: (losses and norms, first moments put together from all ranks)."""
    every_rank = run_ranks(trained, world_size, runs)
    return [(every_rank[0][place][0], _joined([rank[place] for rank in every_rank])) for place in range(len(runs))]


def _joined(ranks: list[Any]) -> dict[str, np.ndarray]:
    parts: dict[str, dict[int, tuple[int | None, np.ndarray]]] = defaultdict(dict)
    for _, moments, tp_rank in ranks:
        for name, part in moments.items():
            parts[name][tp_rank] = part
    whole = {}
    for name, by_rank in parts.items():
        dim = by_rank[0][0]
        values = [by_rank[tp_rank][1] for tp_rank in sorted(by_rank)]
        whole[name] = values[0] if dim is None else np.concatenate(values, axis=dim)
    return whole


def assert_equal(found: Any, expected: Any, what: str) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=RELATIVE, err_msg=what)
    assert found[1].keys() == expected[1].keys()
    largest = max(float(np.abs(values).max()) for values in expected[1].values())
    for name, values in expected[1].items():
        mine = found[1][name][tuple(slice(size) for size in values.shape)]  # without a vocabulary's padding
        allowed = RELATIVE * max(float(np.abs(values).max()), SMALLEST * largest)
        assert float(np.abs(mine - values).max()) <= allowed, f"{what}: {name}"


@pytest.mark.parametrize("models", [QUICK, pytest.param([*MODELS], marks=pytest.mark.matrix)], ids=["some", "all"])
def test_rows_draw_the_same_in_every_micro_batch_size_and_layout(models: list[str]) -> None:
    sizes = [8, 1]  # micro-batches of 2 in all layouts
    alone = run([one for size in sizes for one in runs_of(models, size, (1, 1, 1))], 1)
    expected = dict(zip(models, alone, strict=False))
    for (size, model), found in zip(((size, m) for size in sizes for m in models), alone, strict=True):
        assert_equal(found, expected[model], f"{model}, micro-batches of {size}")
    plans = [(layout, m) for layout in LAYOUTS for m in models if not (m in NOT_CUT and layout[2] > 1)]
    together = run([one for layout, m in plans for one in runs_of([m], 2, layout)], 2)
    for (layout, model), found in zip(plans, together, strict=True):
        assert_equal(found, expected[model], f"{model}, dp tp pp {layout}")


def test_dropout_of_another_seed_gives_other_losses() -> None:
    [(model, overrides)] = runs_of(["transformer"], 8, (1, 1, 1))
    first, other, without = run(
        [
            (model, overrides),
            (model, [*overrides, "seed=5"]),
            (model, [*overrides, *(f"model.{kind}dropout=0" for kind in ("", "attention_", "feed_forward_"))]),
        ],
        1,
    )
    assert not np.allclose(first[0], other[0], rtol=1e-4)
    assert not np.allclose(first[0], without[0], rtol=1e-4)
