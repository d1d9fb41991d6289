"""Corners of loading a converted checkpoint that a real model meets only at scale."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hierlm.checkpoint.universal import write_universal
from hierlm.durable import FileWriter
from tests.distributed.spawn import run_ranks


class Toy(nn.Module):
    """A group of three elements: at four ranks, two of them hold nothing of it but padding."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Module()])
        self.layers[1].gain = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = (self.layers[0](x) * self.layers[1].gain).square().mean()
        return output


def toy_losses(stage: int, *, save: str = "", load: str = "") -> list[float]:
    """Losses of steps 2..4 on every rank, after two steps or after a load."""
    import torch.distributed as dist

    from hierlm.optim.build import build_optimizer
    from hierlm.optim.optimizers import adamw
    from hierlm.parallel.process import start_processes
    from hierlm.parallel.saving import save_engine
    from hierlm.parallel.seams.engine import start_engine
    from hierlm.parallel.universal import INFO, SLICES, load_universal, universal_info

    start_processes()
    torch.manual_seed(0)
    module = Toy()
    kinds: Any = {"layers.0.weight": "matrix", "layers.1.gain": "vector"}
    optimizer = build_optimizer(adamw.Config(), module, kinds=kinds)
    plan = {".*": "replicate"}
    alone = dist.new_group([dist.get_rank()])
    info = universal_info(module, optimizer, plan=plan, vocab_size=3, pipeline=alone, tp_degree=1)  # type: ignore[arg-type]
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": math.inf,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    engine = start_engine(module, optimizer, mpu=None, settings=settings)

    def step(number: int) -> float:
        for group in engine.optimizer.param_groups:
            group["lr"] = 0.05
        loss = engine(torch.full((1, 3), 1.0 + number))
        engine.backward(loss)
        engine.step()
        return float(loss)

    if load:
        load_universal(engine, Path(load), names=info[SLICES])
    else:
        begun = [step(number) for number in range(2)]
        assert begun[1] != begun[0]
    if save:
        files = FileWriter(Path(save))
        save_engine(engine, Path(save), tag="engine", client_state={INFO: info}, open_file=files.open)
    return [step(number) for number in range(2, 5)]


def _save(stage: int, folder: str) -> list[float]:
    return toy_losses(stage, save=folder)


def _load(stage: int, folder: str) -> list[float]:
    return toy_losses(stage, load=folder)


def forget_dimensions(engine_dir: Path) -> None:
    """What DeepSpeed says of the layout, and before 0.19.5 does not say: we know it ourselves."""
    (file,) = engine_dir.glob("*model_states.pt")
    model = torch.load(file, weights_only=False)
    model.pop("checkpoint_parallel_dimensions", None)
    torch.save(model, file)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("toy")
    losses = run_ranks(_save, 1, 1, str(folder))[0]
    forget_dimensions(folder / "engine")
    write_universal(folder / "engine", folder / "universal", progress=lambda done, of: None)
    return folder / "universal" / "engine", losses


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_ranks_that_hold_only_padding_load_too(stage: int, source: Any) -> None:
    universal, losses = source
    ranks = run_ranks(_load, 4, stage, str(universal))
    for rank in ranks:
        torch.testing.assert_close(torch.tensor(rank), torch.tensor(losses), rtol=1e-6, atol=0)
