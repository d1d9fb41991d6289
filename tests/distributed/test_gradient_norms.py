"""The gradient norms of layers, seen before the update, do not depend on the layout and add up to the norm of all."""

import math
from typing import Any

import pytest

from hierlm.config.load import load_config
from tests.distributed.runs import ALONE, RELATIVE, Layout, _text
from tests.distributed.spawn import end_groups, run_ranks

STEPS = 2
MODEL = ["model.num_layers=3", "model.tie_embeddings=true", "model.vocab_size=97", "model.hidden_dim=32"]
RUN = ["phases.0.sequence_length=12", "phases.0.global_batch_size=8", "parallel.micro_batch_size=2"]
CLIPPED = "optim.gradient_clip=0.1"  # far below the norms: what is seen must be that from before
OF_TWO = [Layout(2, 1, 1, zero) for zero in (0, 1, 2, 3)] + [Layout(1, 2, 1), Layout(1, 1, 2), Layout(1, 2, 1, 1)]
OF_FOUR = [Layout(2, 1, 2, 1), Layout(1, 2, 2), Layout(2, 2, 1, 2)]


def norms_of_each(layouts: list[Layout], precision: str) -> list[Any]:
    """On one rank, for each layout: of each step, the norm of all and those of the layers."""
    from hierlm.parallel.process import start_processes

    process, found = start_processes(), []
    for layout in layouts:
        end_groups()
        found.append(norms_of_steps(layout, precision, process))
    return found


def norms_of_steps(layout: Layout, precision: str, process: Any) -> list[tuple[float, list[float]]]:
    from hierlm.parallel.engine import Engine
    from hierlm.phases.timeline import Timeline

    words = [*MODEL, *RUN, CLIPPED, f"train.precision={precision}", *layout.overrides]
    config = load_config("configs/tiny/transformer.yaml", words)
    engine, timeline, seen = Engine(config, process=process), Timeline(config.phases), []
    assert "_take_model_step" not in vars(engine._engine)  # nobody looks: nothing stands in the way
    engine.call_before_update([lambda gradients, moment: seen.append((moment.step, gradients.layer_norms(6).tolist()))])
    mine, steps = list(engine.local_rows(8)), []
    for step in range(STEPS):
        tokens, targets = _text(8, 12, vocab_size=97, seed=step)
        result = engine.train_step(tokens[mine], targets[mine], moment=timeline.at(step))
        assert [at for at, _ in seen] == list(range(step + 1))  # once a step, not once a micro-batch
        steps.append((float(result.grad_norm), seen[-1][1]))
    return steps


def unequal(found: Any, expected: Any, *, within: float) -> list[str]:
    """What differs between two layouts, or between the layers together and the whole, in words."""
    wrong = []
    for step, ((whole, layers), (_, alone)) in enumerate(zip(found, expected, strict=True)):
        if layers != pytest.approx(alone, rel=within):
            wrong.append(f"step {step}: {layers}, alone {alone}")
        if math.hypot(*layers) != pytest.approx(whole, rel=within):
            wrong.append(f"step {step}: layers make {math.hypot(*layers)}, the whole is {whole}")
    return wrong


@pytest.fixture(scope="module")
def alone() -> Any:
    [[found]] = run_ranks(norms_of_each, 1, [ALONE], "fp32")
    for whole, layers in found:
        assert whole > 0.1 and [norm > 0 for norm in layers] == [True] * 5 + [False]  # the head's weight is a tied one
    return found


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("layouts", [OF_TWO, pytest.param(OF_FOUR, marks=pytest.mark.matrix)])
def test_norms_of_layers_equal_the_single_process(layouts: list[Layout], alone: Any) -> None:
    for rank in run_ranks(norms_of_each, layouts[0].world_size, layouts, "fp32"):
        for layout, found in zip(layouts, rank, strict=True):
            assert not (wrong := unequal(found, alone, within=RELATIVE)), f"{layout}: {wrong}"


@pytest.mark.distributed
@pytest.mark.slow
def test_they_add_up_in_bf16_too(alone: Any) -> None:
    """Stage 1 keeps whole fp32 gradients there, stage 2 partitions."""
    for rank in run_ranks(norms_of_each, 2, [Layout(2, 1, 1, 1), Layout(2, 1, 1, 2)], "bf16"):
        for found in rank:
            assert not unequal(found, alone, within=0.05)
