"""Tensor parallelism sends no more than Megatron-LM: two sums a block forward, two backward (1909.08053, section 3)."""

from collections import Counter
from typing import Any

import pytest
import torch

from hierlm.config.load import load_config
from tests.benchmarks.messages import counted
from tests.distributed.spawn import end_groups, run_ranks
from tests.distributed.test_layout_equality import settings

LAYERS = {
    "transformer": ("model.num_layers={}", 2, 4),
    "hourglass": ("model.hierarchy='1@1 {}@2 1@1'", 2, 4),
    "hourglass-relative": ("model.hierarchy='1@1 {}@2 1@1'", 2, 4),
    "transformer_xl": ("model.num_layers={}", 2, 4),
}
"""How deep a model is, and two depths."""


def step_messages(model: str, overrides: list[list[str]]) -> list[Counter[str]]:
    """On one rank: what forward and backward pass of one micro-batch send at each of some settings."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes
    from hierlm.phases.timeline import Timeline

    process, found = start_processes(), []
    for some in overrides:
        config = load_config(f"configs/tiny/{model.partition('-')[0]}.yaml", some)
        engine = Engine(config, process=process)
        tokens = torch.arange(4 * 23).reshape(4, 23) % 97
        with counted() as messages:
            engine.train_step(tokens[:, :-1], tokens[:, 1:], moment=Timeline(config.phases).at(0))
        found.append(Counter(message.kind for message in messages))
        end_groups()
    return found


def at_depths(model: str, tp: int, *more: str) -> list[Counter[str]]:
    field, *depths = LAYERS[model]
    depth = [
        [*settings(model, (1, tp, 1), 0), "phases.0.global_batch_size=4", *one_micro_batch(more), field.format(n)]
        for n in depths
    ]
    return run_ranks(step_messages, tp, model, depth)[0]


def one_micro_batch(more: Any) -> list[str]:
    return ["parallel.micro_batch_size=4", *more]


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("model", "tp"),
    [("transformer", 2), ("transformer", 4), ("hourglass", 2), ("hourglass-relative", 2), ("transformer_xl", 2)],
)
def test_a_block_sums_four_times(model: str, tp: int) -> None:
    few, many = at_depths(model, tp)
    assert {kind: many[kind] - few[kind] for kind in many if many[kind] != few[kind]} == {"all_reduce": 4 * 2}


@pytest.mark.distributed
def test_gradients_of_shared_tokens_are_added_up_in_one_message() -> None:
    """Norms and biases of all blocks, for all micro-batches of a step."""
    more = ["parallel.sequence_parallel=true", "parallel.micro_batch_size=1"]
    few, many = at_depths("transformer", 2, *more)
    plain, _ = at_depths("transformer", 2, "parallel.micro_batch_size=1")
    assert few["all_reduce"] == many["all_reduce"]
    of_ends = plain["all_reduce"] - 2 * 4 * 4  # embedding, head and loss
    assert few["all_reduce"] == of_ends + 1


@pytest.mark.distributed
@pytest.mark.parametrize("tp", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_shared_tokens_are_gathered_and_scattered_as_by_megatron(tp: int) -> None:
    few, many = at_depths("transformer", tp, "parallel.sequence_parallel=true")
    deeper = {kind: (many[kind] - few[kind]) / 2 for kind in many if many[kind] != few[kind]}
    assert deeper == {"all_gather": 6, "all_to_all": 4}
