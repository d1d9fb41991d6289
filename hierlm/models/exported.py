"""Read what `hierlm checkpoint export` wrote."""

from pathlib import Path

import torch
from safetensors import safe_open

from hierlm.models.assembly import LanguageModel, model_from_source

WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"


def load_exported(directory: str | Path) -> LanguageModel:
    """The exported model with its trained weights, fp32, in evaluation mode.

    Raises FileNotFoundError if a file is missing and ValueError if the weights are not those of the configuration.
    """
    directory = Path(directory)
    for name in (WEIGHTS, CONFIG):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory}: no {name}; expected the output of `hierlm checkpoint export`")
    model = model_from_source(directory / CONFIG, seed=None)
    _fill(model, directory / WEIGHTS)
    return model.eval()


def _fill(model: LanguageModel, path: Path) -> None:
    """Copy every tensor of the file into the parameter of its name; a shared weight is there once, under its first."""
    parameters = dict(model.named_parameters())
    with safe_open(path, framework="pt") as weights, torch.no_grad():
        if odd := sorted(set(weights.keys()) ^ parameters.keys()):
            raise ValueError(f"{path}: not the weights of its {CONFIG}: {len(odd)} names differ, the first is {odd[0]}")
        for name, parameter in parameters.items():
            tensor = weights.get_tensor(name)
            if tensor.shape != parameter.shape:
                raise ValueError(f"{path}: {name} has shape {list(tensor.shape)}, its {CONFIG} {list(parameter.shape)}")
            parameter.copy_(tensor)
