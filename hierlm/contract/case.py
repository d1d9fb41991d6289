"""The model that checks look at: one architecture at one small size."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hierlm import models
from hierlm.models.assembly import LanguageModel
from hierlm.models.config import ModelConfig


class ContractError(AssertionError):
    """A check does not hold; one line."""


class NotConcernedError(Exception):
    """A check does not concern this model, and why."""


def require(holds: bool, what: str) -> None:
    """Raise ContractError where it does not hold."""
    if not holds:
        raise ContractError(what)


@dataclass(frozen=True)
class Case:
    """A `model:` part; `rounds_by_suffix`: inner lengths depend on the text, so other suffixes round sums otherwise."""

    part: Mapping[str, Any]
    rounds_by_suffix: bool = False

    @property
    def architecture(self) -> ModuleType:
        return models.architecture(str(self.part["arch"]))

    @property
    def config(self) -> ModelConfig:
        config: ModelConfig = self.architecture.Config.model_validate(self.part)
        return config

    @cached_property
    def model(self) -> LanguageModel:
        """In float64, evaluation mode, with weights far from their initial scale: every path must carry a signal."""
        model = self.fresh(seed=7).double().eval()
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(noise * (2.0 / max(parameter.shape[-1], 4)) ** 0.5)
        return model

    @property
    def copy(self) -> LanguageModel:
        """Of `model`, to be changed."""
        return deepcopy(self.model)

    def fresh(self, *, seed: int) -> LanguageModel:
        """As it begins, fp32, training mode."""
        return LanguageModel(self.config, seed=seed).train()

    def concerns_what_sees(self, visibility: str) -> None:
        """NotConcernedError for an architecture that is never asked for this visibility (its `SEES`)."""
        if visibility not in models.sees(self.architecture):
            seen = ", ".join(sorted(models.sees(self.architecture)))
            raise NotConcernedError(f"tokens see: {seen}")

    def tokens(self, length: int, *, batch: int = 2, seed: int = 3) -> Tensor:
        """int64 [batch, length]."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(self.config.vocab_size, (batch, length), generator=generator)


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Relative to the larger of the two, at least to 1."""
    scale = torch.maximum(a.abs(), b.abs()).clamp(min=1.0)
    return float(((a - b).abs() / scale).max()) if a.numel() else 0.0


def require_close(found: Tensor, expected: Tensor, *, within: float, what: str) -> None:
    """ContractError naming `what` and how far apart they are; not a number is wrong too."""
    require(found.shape == expected.shape, f"{what}: shape {list(found.shape)}, expected {list(expected.shape)}")
    apart = largest_difference(found, expected)
    require(apart <= within, f"{what} differ by up to {apart:.1e}")
