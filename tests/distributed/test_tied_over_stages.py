"""Weights that layers of several pipeline stages read: one weight to training, to the optimizer and to a checkpoint."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hierlm.checkpoint.canonical import read_canonical
from hierlm.config.load import load_config
from hierlm.durable import FileWriter
from hierlm.models.assembly import canonical_names
from hierlm.parallel.engine import TAG
from hierlm.phases.timeline import Timeline
from tests.distributed.spawn import run_ranks

STEPS = 4
PHASES = (
    "[{name: all, duration: {steps: 2}, sequence_length: 12, global_batch_size: 4,"
    " learning_rate: {peak: 0.01, decay: constant}},"
    r" {name: rest, duration: {steps: 2}, trainable: ['(?!.*(content|position)_bias).*(weight|bias)']}]"
)
SIZES = [
    "model.num_layers=12",  # at least three blocks on each of four stages
    "model.hidden_dim=16",
    "model.num_heads=2",
    "model.ffn_dim=24",
    "model.vocab_size=32",
    "model.memory_length=12",
    "model.share_position_biases=true",
    "model.tie_embeddings=true",
    f"phases={PHASES}",
    "parallel.micro_batch_size=2",
    "parallel.stage_cut=uniform",
    "optim.weight_decay=0.3",
    "optim.eps=1e-3",  # so that rounding in a gradient of almost zero is not made as large as a step
]
MODELS = {
    "transformer_xl": [],
    "skip_cross_head_xl": ["model.layer_skip=uniform", "model.skip_probability=0.5"],  # some stages skip all users
}
BIASES = ("layers.1.block.attention.content_bias.weight", "layers.1.block.attention.position_bias.weight")


def train(folder: str, cases: list[tuple[str, list[str]]]) -> Any:
    """On one rank, for each model and layout: loss and norm of every step, and its checkpoints after steps 2 and 4."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    process, found = start_processes(), []
    for model, overrides in cases:
        config = load_config(f"configs/tiny/{model}.yaml", [*SIZES, *MODELS[model], *overrides])
        engine, timeline, steps = Engine(config, process=process), Timeline(config.phases), []
        for step in range(STEPS):
            whole = torch.randint(0, 32, (4, 13), generator=torch.Generator().manual_seed(step))
            mine = whole[list(engine.local_rows(4))]
            result = engine.train_step(mine[:, :-1], mine[:, 1:], moment=timeline.at(step))
            steps.append((engine.global_mean(result.loss), float(result.grad_norm)))
            if step % 2:
                target = Path(folder, model, f"{step + 1}")
                engine.save(target, client_state={}, open_file=FileWriter(target).open)
        found.append((steps, canonical_names(config.model)))
    return found


def layout(*, pipeline: int, zero: int, precision: str = "fp32") -> list[str]:
    return [
        f"parallel.pipeline_parallel_degree={pipeline}",
        f"parallel.zero_stage={zero}",
        f"train.precision={precision}",
    ]


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("zero", "precision"), [(1, "bf16"), *(pytest.param(zero, "fp32", marks=pytest.mark.matrix) for zero in (0, 1))]
)
def test_shared_biases_over_four_stages_are_one_weight(zero: int, precision: str, tmp_path: Path) -> None:
    alone = run_ranks(train, 1, str(tmp_path / "1"), [(m, layout(pipeline=1, zero=0)) for m in MODELS])
    over = [(model, layout(pipeline=4, zero=zero, precision=precision)) for model in MODELS]
    every_rank = run_ranks(train, 4, str(tmp_path / "4"), over)
    for number, model in enumerate(MODELS):
        states = {
            (where, step): read_canonical(tmp_path / where / model / str(step) / TAG)
            for where in ("1", "4")
            for step in (2, 4)
        }
        steps, names = alone[0][number]
        assert states["4", 4].names == sorted(names)
        assert_copies_are_equal(states["4", 4])
        for bias in BIASES:  # frozen in the second phase
            assert states["4", 4].tensor(bias, "fp32").equal(states["4", 2].tensor(bias, "fp32"))
        if precision == "fp32":
            assert_same_moments(states["4", 4], states["1", 4])
            for found in every_rank:
                torch.testing.assert_close(torch.tensor(found[number][0]), torch.tensor(steps), rtol=1e-5, atol=0)


def assert_copies_are_equal(state: Any) -> None:
    """Every stage that holds a weight has the same values of it and of its moments, to the last bit."""
    num_copies = {name: len(parts) for name, parts in state._by_name.items()}
    assert [num_copies[bias] for bias in BIASES] == [4, 4]
    for name, parts in state._by_name.items():
        for kind in ("fp32", "exp_avg", "exp_avg_sq"):
            copies = [_whole(part.pieces[name], kind) for part in parts]
            assert all(copies[0].equal(other) for other in copies), name


def _whole(piece: Any, kind: str) -> torch.Tensor:
    return piece.stretch(kind, 0, math.prod(piece.shape))


def assert_same_moments(found: Any, expected: Any) -> None:
    """Some gradients are zero by symmetry and hold noise alone: those are measured by the largest tensor."""
    of = {name: expected.tensor(name, "exp_avg") for name in expected.names}
    largest = max(float(moment.abs().max()) for moment in of.values())
    for name, moment in of.items():
        scale = max(float(moment.abs().max()), 1e-3 * largest)
        assert float((found.tensor(name, "exp_avg") - moment).abs().max()) <= 1e-5 * scale, name
