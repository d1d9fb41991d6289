"""An optimizer is one file: dropped in, it is found, checked, named in errors, and its state is saved by its names."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from hierlm.checkpoint.canonical import read_canonical
from hierlm.checkpoint.digest import digest
from hierlm.config.load import dump_config, load_config
from hierlm.errors import UserError
from hierlm.optim import optimizers
from hierlm.parallel.engine import TAG
from tests.config.making import write
from tests.distributed.spawn import run_ranks

AVERAGED = '''
"""Gradient descent that also keeps an average of its weights and counts its updates."""

from typing import Literal

from hierlm.optim.config import OptimConfig

STATES = ("average",)
COUNTS = ("updates",)
ZERO_STAGES = (0, 1, 2)


class Config(OptimConfig):
    name: Literal["averaged"] = "averaged"
    keep: float = 0.5


def build(groups, config):
    import torch

    class Averaged(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    state = self.state[parameter]
                    if not state:
                        state["average"] = torch.zeros_like(parameter)
                        state["updates"] = torch.zeros(())
                    parameter.sub_(parameter.grad, alpha=group["lr"])
                    state["average"].lerp_(parameter, 1 - config.keep)
                    state["updates"].add_(1)

    return Averaged(groups, {"lr": 0.0})
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "averaged.py").write_text(AVERAGED)
    monkeypatch.setattr(optimizers, "__path__", [*optimizers.__path__, str(tmp_path / "more")])
    return str(tmp_path / "more")


def test_an_optimizer_is_one_file(place: str, tmp_path: Path) -> None:
    file = write(tmp_path, {"optim": {"name": "averaged", "keep": 0.75}})
    config = load_config(file)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config
    with pytest.raises(UserError, match=r'optim\.name: given "averages", allowed: adamw, averaged, lion, sgd, nearest'):
        load_config(file, ["optim.name=averages"])
    with pytest.raises(UserError, match=r"optim\.betas: unknown key .*allowed: name, weight_decay"):
        load_config(file, ["optim.betas=[0.9, 0.9]"])
    with pytest.raises(UserError, match=r"zero_stage: given 3 with optim\.name averaged, allowed: 0, 1, 2"):
        load_config(file, ["parallel.zero_stage=3"])


def train(where: Any, more: str, root: str) -> Any:
    """On every rank: three steps and a save, and that loaded by an engine of another layout."""
    from hierlm.checkpoint.universal import write_universal
    from tests.distributed.test_optimizers import engine_of, save_into, steps_of

    optimizers.__path__ = [*optimizers.__path__, more]
    source, target = where
    engine, folder = engine_of("averaged", source, []), Path(root)
    steps_of(engine, 0, 3, save=folder)
    if dist.get_rank() == 0:
        write_universal(folder / "3" / TAG, folder / "universal", progress=lambda done, total: None)
    dist.barrier()
    moved = engine_of("averaged", target, [])
    moved.load_converted(folder / "universal")
    save_into(moved, folder / "moved")


@pytest.mark.slow
@pytest.mark.distributed
def test_its_states_and_counts_are_moved_to_another_layout(place: str, tmp_path: Path) -> None:
    run_ranks(train, 2, ((2, 1, 1, 1), (1, 2, 1, 0)), place, str(tmp_path))
    found, moved = (read_canonical(tmp_path / name / TAG) for name in ("3", "moved"))
    assert found.kinds == moved.kinds == ("fp32", "average")
    assert {name: found.counts_of(name) for name in found.names} == {n: moved.counts_of(n) for n in moved.names}
    assert {count["updates"] for count in map(found.counts_of, found.names)} == {2, 3}
    assert any(torch.any(found.tensor(name, "average")) for name in found.names)
    assert digest(tmp_path / "3" / TAG) == digest(tmp_path / "moved" / TAG)
