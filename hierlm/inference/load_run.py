"""A run's model on this machine's device, whatever layout trained it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hierlm.checkpoint.canonical import CanonicalState, read_canonical
from hierlm.checkpoint.find import checkpoint_at
from hierlm.checkpoint.layout import ENGINE
from hierlm.config.load import load_config
from hierlm.config.run_config import RunConfig
from hierlm.errors import UserError
from hierlm.models.assembly import LanguageModel
from hierlm.phases.config import PhaseConfig
from hierlm.phases.timeline import Timeline
from hierlm.run_dir import RunDir


@dataclass(frozen=True)
class LoadedRun:
    """A trained model in evaluation mode, and where it comes from."""

    config: RunConfig[Any]
    model: LanguageModel
    step: int
    device: torch.device

    @property
    def phase(self) -> PhaseConfig:
        """The phase the checkpoint's last update belongs to."""
        return Timeline(self.config.phases).at(max(self.step - 1, 0)).phase


def load_run(path: Path, *, checkpoint: int | None) -> LoadedRun:
    """The model of one checkpoint of a run directory (None: the newest good one); UserError when there is none."""
    run_dir = RunDir(path)
    if not run_dir.config.exists():
        raise UserError(f"{path}: no run here (no {run_dir.config.name}); give a run directory such as runs/NAME")
    config = load_config(run_dir.config)
    ref = checkpoint_at(run_dir.checkpoints, checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = LanguageModel(config.model, seed=config.seed)
    _fill(model, read_canonical(ref.path / ENGINE))
    return LoadedRun(config, model.to(device).eval(), ref.step, device)


@torch.no_grad()
def _fill(model: LanguageModel, state: CanonicalState) -> None:
    parameters = dict(model.named_parameters())
    assert sorted(parameters) == state.names, "a checkpoint holds exactly the parameters of its own config"
    for name, parameter in parameters.items():
        parameter.copy_(state.tensor(name, "fp32"))
