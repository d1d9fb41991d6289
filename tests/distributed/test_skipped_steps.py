"""A gradient that is not finite on any one rank leaves the step out on all: as if it had not been, on every layout."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hierlm.config.load import load_config
from hierlm.phases.timeline import Timeline
from tests.distributed.sizes import TWO_LAYERS
from tests.distributed.spawn import run_ranks

STEPS, ROWS = 4, 4
SMALL = [
    *TWO_LAYERS,
    "phases.0.sequence_length=16",
    f"phases.0.global_batch_size={ROWS}",
    "parallel.micro_batch_size=1",
    "optim.weight_decay=0.3",
]


def layout(dp: int, tp: int, pp: int, zero: int, precision: str) -> list[str]:
    return [
        f"parallel.data_parallel_degree={dp}",
        f"parallel.tensor_parallel_degree={tp}",
        f"parallel.pipeline_parallel_degree={pp}",
        f"parallel.zero_stage={zero}",
        f"train.precision={precision}",
    ]


def engine_of(arch: str, overrides: list[str]) -> Any:
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    config = load_config(f"configs/tiny/{arch}.yaml", [*SMALL, *overrides])
    return Engine(config, process=start_processes())


def step_of(engine: Any, step: int) -> Any:
    whole = torch.randint(0, 64, (ROWS, 17), generator=torch.Generator().manual_seed(step))
    mine = whole[list(engine.local_rows(ROWS))]
    return engine.train_step(mine[:, :-1], mine[:, 1:], moment=Timeline(engine.config.phases).at(step))


def state_here(engine: Any) -> list[Tensor]:
    """Copies of every weight, full-precision weight, moment and count of this rank, those last."""
    optimizer = engine._engine.basic_optimizer
    working = [getattr(parameter, "ds_tensor", parameter) for parameter in engine.module.parameters()]
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return [tensor.detach().clone() for tensor in (*working, *weights, *moments)]


def planted(engine: Any, *, value: float) -> Any:
    """One element of a gradient is `value`, on the last rank alone, in the second micro-batch from now on.

    It is that of a replicated weight where tensors are sliced.
    """
    if engine.process.rank != engine.process.world_size - 1:
        return None
    calls = 0

    def spoil(gradient: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        spoilt = gradient.clone()
        if calls == 2:
            spoilt.view(-1)[3] = value
        return spoilt

    return list(engine.module.parameters())[-2].register_hook(spoil)


def skip_and_go_on(overrides: list[str], at_step: int, value: float) -> Any:
    """On one rank: losses and norms of the other steps, what was skipped, and whether the step left any trace."""
    engine, found, skipped = engine_of("transformer", overrides), [], []
    for step in range(STEPS):
        hook = planted(engine, value=value) if step == at_step else None
        before = state_here(engine)
        result = step_of(engine, step)
        if step == at_step:
            after = state_here(engine)
            trace = [n for n, (a, b) in enumerate(zip(before, after[: len(before)], strict=True)) if not a.equal(b)]
            left = {"trace": trace, "made": [t.abs().max().item() for t in after[len(before) :]]}
        else:
            found.append((engine.global_mean(result.loss), float(result.grad_norm)))
        skipped.append(bool(result.is_skipped))
        if hook is not None:
            hook.remove()
    counts = (engine.skipped.total, engine.skipped.in_a_row)
    state = [tensor.float().numpy() for tensor in state_here(engine)]
    return {"steps": found, "skipped": skipped, "counts": counts, **left, "state": state}


def without(overrides: list[str], at_step: int) -> Any:
    engine = engine_of("transformer", overrides)
    results = [step_of(engine, step) for step in range(STEPS) if step != at_step]
    steps = [(engine.global_mean(result.loss), float(result.grad_norm)) for result in results]
    return {"steps": steps, "state": [t.float().numpy() for t in state_here(engine)]}


LAYOUTS = [((2, 1, 1, 0), "fp32", math.nan, 1)]
SLOW = [
    ((1, 2, 2, 1), "bf16", math.inf, 1),
    ((2, 1, 1, 3), "bf16", math.nan, 0),
    ((1, 1, 1, 0), "fp32", math.inf, 0),
    ((1, 2, 2, 0), "fp32", math.nan, 1),
    ((2, 1, 1, 1), "fp32", math.nan, 1),
    ((2, 1, 1, 2), "bf16", math.inf, 1),
]
MATRIX = [
    ((2, 1, 1, 2), "fp32", math.nan, 0),
    ((2, 1, 1, 3), "fp32", math.inf, 1),
    ((2, 1, 1, 1), "bf16", math.nan, 0),
    ((1, 2, 1, 0), "fp32", math.inf, 1),
    ((1, 1, 2, 0), "fp32", math.nan, 0),
    ((1, 1, 2, 1), "fp32", math.nan, 0),
    ((2, 1, 2, 1), "fp32", math.inf, 1),
    ((1, 1, 1, 0), "bf16", math.nan, 0),
    ((2, 2, 1, 3), "bf16", math.nan, 1),
]


def cases() -> list[Any]:
    groups = (([], LAYOUTS), ([pytest.mark.slow], SLOW), ([pytest.mark.slow, pytest.mark.matrix], MATRIX))
    return [pytest.param(*case, id=name_of(case), marks=marks) for marks, group in groups for case in group]


def name_of(case: Any) -> str:
    (dp, tp, pp, zero), precision, value, at_step = case
    return f"dp{dp}-tp{tp}-pp{pp}-zero{zero}-{precision}-{value}-at{at_step}"


@pytest.mark.distributed
@pytest.mark.parametrize(("where", "precision", "value", "at_step"), cases())
def test_a_gradient_that_is_not_finite_on_one_rank_leaves_the_step_out_on_all(
    where: tuple[int, int, int, int], precision: str, value: float, at_step: int
) -> None:
    require_left_out(layout(*where, precision), math.prod(where[:3]), value, at_step)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("optimizer", "where", "at_step"),
    [
        ("lion", (2, 1, 1, 0), 0),
        *(
            pytest.param(*case, marks=pytest.mark.matrix)
            for case in [("sgd", (1, 2, 1, 0), 0), ("sgd", (2, 1, 1, 1), 1), ("lion", (2, 1, 1, 3), 1)]
        ),
    ],
)
def test_any_optimizer_leaves_a_step_out(optimizer: str, where: tuple[int, int, int, int], at_step: int) -> None:
    """Without ZeRO no optimizer of DeepSpeed's does it, and one that is not fused knows no flag on the device."""
    words = [*layout(*where, "fp32"), f"optim.name={optimizer}"]
    require_left_out(words, math.prod(where[:3]), math.nan, at_step)


def require_left_out(settings: list[str], world: int, value: float, at_step: int) -> None:
    ranks = run_ranks(skip_and_go_on, world, settings, at_step, value)
    expected = run_ranks(without, world, settings, at_step)
    for found, wanted in zip(ranks, expected, strict=True):
        assert found["skipped"] == [step == at_step for step in range(STEPS)]
        assert found["counts"] == (1, 0)
        assert found["trace"] == []
        assert not any(found["made"])  # moments made by the step are those before the first one: zeros
        assert found["steps"] == wanted["steps"]
        for mine, other in zip(found["state"], wanted["state"], strict=True):
            assert (mine == other).all()


def lose_a_memory(overrides: list[str]) -> Any:
    """On one rank: what was skipped and whether losses are finite, around a step before which a stage forgot a row."""
    from hierlm.parallel.memory_lanes import MemoryLanes

    engine, found = engine_of("transformer_xl", overrides), []
    lanes: MemoryLanes = engine._passes.training_lanes
    for step in range(STEPS):
        if step == 1 and engine.process.rank == engine.process.world_size - 1:
            next(memory for memory in lanes._lanes[0] if memory)[0][0] = math.nan  # its first row, here alone
        result = step_of(engine, step)
        found.append((bool(result.is_skipped), math.isfinite(float(result.grad_norm))))
        lost = lanes.rows_not_finite(len(engine.local_rows(ROWS))).sum().item()
        assert lost == 0, f"step {step}"
    return found


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("where", [(1, 1, 2, 0), (2, 1, 1, 1)], ids=["pp2", "dp2"])
def test_a_row_that_remembers_something_not_finite_costs_one_step(where: tuple[int, int, int, int]) -> None:
    for found in run_ranks(lose_a_memory, 2, layout(*where, "fp32")):
        assert found == [(False, True), (True, False), (False, True), (False, True)]
