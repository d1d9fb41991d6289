"""What an engine saves under tensor and pipeline parallelism continues to the last bit, and has canonical names."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hierlm.config.load import load_config
from hierlm.durable import FileWriter
from hierlm.models.assembly import LanguageModel
from hierlm.parallel.engine import TAG
from hierlm.phases.timeline import Timeline
from tests.distributed.spawn import run_ranks

OVERRIDES = [
    "model.num_layers=2",
    "model.hidden_dim=32",
    "model.ffn_dim=48",
    "model.tie_embeddings=true",
    "model.dropout=0.1",
    "phases.0.sequence_length=16",
    "phases.0.global_batch_size=8",
    "parallel.micro_batch_size=2",
]


def train(overrides: list[str], first: int, last: int, save: str | None, load: str | None) -> list[Any]:
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    config = load_config("configs/tiny/transformer.yaml", [*OVERRIDES, *overrides])
    engine = Engine(config, process=start_processes())
    if load:
        engine.load(Path(load))
    timeline, found = Timeline(config.phases), []
    for step in range(first, last):
        whole = torch.randint(0, 256, (8, 17), generator=torch.Generator().manual_seed(step))
        mine = whole[list(engine.local_rows(8))]
        result = engine.train_step(mine[:, :-1], mine[:, 1:], moment=timeline.at(step))
        found.append((engine.global_mean(result.loss), float(result.grad_norm)))
    if save:
        engine.save(Path(save), client_state={}, open_file=FileWriter(Path(save)).open)
    return found


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("layout", "zero", "precision"),
    [
        ((1, 2, 2), 1, "bf16"),
        ((2, 1, 2), 0, "fp32"),
        ((2, 2, 1), 3, "bf16"),
        pytest.param((2, 2, 2), 1, "fp32", marks=pytest.mark.matrix),
    ],
)
def test_a_saved_engine_continues_to_the_last_bit(layout: Any, zero: int, precision: str, tmp_path: Path) -> None:
    dp, tp, pp = layout
    overrides = [
        f"parallel.data_parallel_degree={dp}",
        f"parallel.tensor_parallel_degree={tp}",
        f"parallel.pipeline_parallel_degree={pp}",
        f"parallel.zero_stage={zero}",
        f"train.precision={precision}",
    ]
    world = dp * tp * pp
    whole = run_ranks(train, world, overrides, 0, 5, None, None)
    begun = run_ranks(train, world, overrides, 0, 2, str(tmp_path), None)
    rest = run_ranks(train, world, overrides, 2, 5, None, str(tmp_path))
    assert [a + b for a, b in zip(begun, rest, strict=True)] == whole
    if zero < 3:
        assert saved_names(tmp_path) == single_device_names()


def saved_names(directory: Path) -> set[str]:
    files = (directory / TAG).glob("mp_rank_*_model_states.pt")
    return {name for file in files for name in torch.load(file, weights_only=False)["module"]}


def single_device_names() -> set[str]:
    config = load_config("configs/tiny/transformer.yaml", OVERRIDES)
    return set(LanguageModel(config.model, seed=0).state_dict())
