"""Small models in double precision whose every parameter, biases and zeros included, has a say."""

import torch

from hierlm import models
from hierlm.models.assembly import LanguageModel


def perturbed(part: dict[str, object]) -> LanguageModel:
    """The model of a config's `model:` part, each parameter moved by noise of deviation 0.3, the same at each call."""
    model = models.from_config({"model": part}, seed=3).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.3)
    return model
