"""RunConfig typed by the files that a user's words choose: architecture, objective, optimizer, schedules."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union

from pydantic import ConfigDict, Discriminator, Field, Tag, create_model

from hierlm.config.run_config import RunConfig
from hierlm.models.config import ModelConfig
from hierlm.objectives.config import ObjectiveConfig
from hierlm.optim.config import OptimConfig
from hierlm.phases import schedules
from hierlm.phases.config import DEFAULT_DECAY, LearningRateConfig, PhaseConfig

UNKNOWN = "?"
"""Tag of a curve whose `decay` names no file: the other fields are not held against it."""


class Chosen(NamedTuple):
    """The Configs of what a user's words choose, each with fields of its own."""

    model: type[ModelConfig]
    objective: type[ObjectiveConfig]
    optim: type[OptimConfig]


def typed_run_config(chosen: Chosen, *, raw: Mapping[str, Any]) -> type[RunConfig[Any]]:
    """The config of runs of what is chosen, with the schedules that the phases of `raw` name.

    With all there are where one of them is unknown: the error lists them, and looking for all takes a while.
    """
    asked = [DEFAULT_DECAY, *_decays(raw)]
    known = {str(name) for name in asked} if all(map(schedules.is_known, asked)) else schedules.names()
    return _typed(chosen, tuple(sorted(known)))


def _decays(raw: Mapping[str, Any]) -> Iterator[object]:
    phases = raw.get("phases")
    for phase in phases if isinstance(phases, list | tuple) else ():
        curve = phase.get("learning_rate") if isinstance(phase, Mapping) else None
        if isinstance(curve, Mapping) and "decay" in curve:
            yield curve["decay"]


@cache
def _typed(chosen: Chosen, known: tuple[str, ...]) -> type[RunConfig[Any]]:
    phase: Any = create_model("PhaseConfig", __base__=PhaseConfig, learning_rate=(_any_curve(known), ...))
    typed: type[RunConfig[Any]] = create_model(
        "RunConfig",
        __base__=RunConfig[chosen.model],  # type: ignore[name-defined]
        objective=(chosen.objective, Field(default_factory=chosen.objective)),
        optim=(chosen.optim, Field(default_factory=chosen.optim)),
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
