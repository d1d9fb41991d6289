"""A run's model on this machine's device, whatever layout trained it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from hierlm.checkpoint.canonical import CanonicalState, read_canonical, require_known_names
from hierlm.checkpoint.find import checkpoint_at
from hierlm.checkpoint.layout import ENGINE
from hierlm.config.load import load_run_config
from hierlm.config.run_config import RunConfig
from hierlm.errors import UserError
from hierlm.inference.remembering import AS_TRAINED, Remembering
from hierlm.models.assembly import LanguageModel, is_recurrent
from hierlm.nn.layer import Layer, StepContext
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
        return phase_of(self.config, step=self.step)

    @cached_property
    def is_recurrent(self) -> bool:
        """Whether memory is carried from one segment to the next."""
        return is_recurrent(self.config.model)


def phase_of(config: RunConfig[Any], *, step: int) -> PhaseConfig:
    """The phase of the last of `step` updates."""
    return Timeline(config.phases).at(max(step - 1, 0)).phase


def load_run(path: Path, *, checkpoint: int | None, remembering: Remembering = AS_TRAINED) -> LoadedRun:
    """The model of one checkpoint of a run directory (None: the newest good one), with the switches of its phase.

    UserError when there is none, or when the model cannot remember otherwise than it was trained to.
    """
    run_dir = RunDir(path)
    if not run_dir.config.exists():
        raise UserError(f"{path}: no run here (no {run_dir.config.name}); give a run directory such as runs/NAME")
    config = load_run_config(run_dir.config)
    model_config = remembering.applied_to(config.model)
    ref = checkpoint_at(run_dir.checkpoints, checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = LanguageModel(model_config, seed=config.seed)
    state = read_canonical(ref.path / ENGINE)
    require_known_names(state.names, (name for name, _ in model.named_parameters()), where=ref.path)
    _fill(model, state)
    own = {name: getattr(model_config, name) for name in model_config.train_switches()}
    switches = {**own, **phase_of(config, step=ref.step).model, **remembering.switches}
    for layer in model.layers:
        assert isinstance(layer, Layer)
        layer.begin_step(StepContext(max(ref.step - 1, 0), config.seed, switches))
    return LoadedRun(config, model.to(device).eval(), ref.step, device)


@torch.no_grad()
def _fill(model: LanguageModel, state: CanonicalState) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(state.tensor(name, "fp32"))
