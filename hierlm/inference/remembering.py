"""Evaluating with another memory than that of training (Transformer-XL, 1901.02860, section 4 and its code)."""

from dataclasses import dataclass
from typing import Any

from hierlm.errors import UserError
from hierlm.models.config import ModelConfig

_LENGTH, _EVALUATION_LENGTH, _SAME_LENGTH = "memory_length", "evaluation_memory_length", "evaluation_same_length"


@dataclass(frozen=True)
class Remembering:
    """What is asked of a model's memory in evaluation; by default nothing, then the config decides."""

    memory_length: int | None = None  # tokens
    same_length: bool = False  # every token sees exactly as many keys

    @property
    def switches(self) -> dict[str, Any]:
        """The train switch this sets, stronger than the phase's."""
        return {} if self.memory_length is None else {_LENGTH: self.memory_length}

    def applied_to(self, config: ModelConfig) -> ModelConfig:
        """The config to build the model from: of the same weights. UserError with every reason against it."""
        problems = self._problems(config)
        if problems:
            raise UserError(problems)
        changes = dict(self.switches)
        if changes and _EVALUATION_LENGTH in type(config).model_fields:
            changes[_EVALUATION_LENGTH] = self.memory_length
        if self.same_length:
            changes[_SAME_LENGTH] = True
        return type(config).model_validate({**config.model_dump(), **changes}) if changes else config

    def _problems(self, config: ModelConfig) -> list[str]:
        problems = []
        if self.memory_length is not None and _LENGTH not in config.train_switches():
            problems.append(
                f"--memory-length: {config.arch} has no memory whose length is a switch "
                f"(its switches: {', '.join(sorted(config.train_switches())) or 'none'}); leave the option out"
            )
        if self.same_length and _SAME_LENGTH not in type(config).model_fields:
            problems.append(f"--same-length: {config.arch} has no field model.{_SAME_LENGTH}; leave the option out")
        return problems


AS_TRAINED = Remembering()
