"""RunConfig typed by the files that a user's words choose: architecture, optimizer, schedule of every phase."""

from functools import cache
from typing import Annotated, Any, Literal, Union

from pydantic import ConfigDict, Discriminator, Field, Tag, create_model

from hierlm.config.run_config import RunConfig
from hierlm.models.config import ModelConfig
from hierlm.optim.config import OptimConfig
from hierlm.phases import schedules
from hierlm.phases.config import DEFAULT_DECAY, LearningRateConfig, PhaseConfig

UNKNOWN = "?"
"""Tag of a curve whose `decay` names no file: the other fields are not held against it."""


def typed_run_config(model: type[ModelConfig], optim: type[OptimConfig]) -> type[RunConfig[Any]]:
    """The config of runs of one architecture and optimizer, with the schedules known now."""
    return _typed(model, optim, tuple(schedules.names()))


@cache
def _typed(model: type[ModelConfig], optim: type[OptimConfig], known: tuple[str, ...]) -> type[RunConfig[Any]]:
    phase: Any = create_model("PhaseConfig", __base__=PhaseConfig, learning_rate=(_any_curve(known), ...))
    typed: type[RunConfig[Any]] = create_model(
        "RunConfig",
        __base__=RunConfig[model],  # type: ignore[valid-type]
        optim=(optim, Field(default_factory=optim)),
        phases=(tuple[phase, ...], Field(min_length=1)),
    )
    return typed


def _any_curve(known: tuple[str, ...]) -> Any:
    """A curve by its `decay`."""

    def tag(written: Any) -> str:
        decay = written.get("decay", DEFAULT_DECAY) if isinstance(written, dict) else getattr(written, "decay", UNKNOWN)
        return decay if isinstance(decay, str) and decay in known else UNKNOWN

    classes = {name: _curve(name) for name in known}
    classes[UNKNOWN] = create_model("UnknownCurve", __base__=_Lenient, decay=(_literal(*known), ...))
    tagged = tuple(Annotated[curve, Tag(name)] for name, curve in classes.items())
    return Annotated[Union[tagged], Discriminator(tag)]  # noqa: UP007


def _curve(name: str) -> type[LearningRateConfig]:
    """A schedule's own Config, or that of all with its name."""
    own: type[LearningRateConfig] | None = getattr(schedules.schedule(name), "Config", None)
    return own or create_model(name, __base__=LearningRateConfig, decay=(_literal(name), name))


class _Lenient(LearningRateConfig):
    model_config = ConfigDict(extra="ignore")


def _literal(*names: str) -> Any:
    return Literal[names]
