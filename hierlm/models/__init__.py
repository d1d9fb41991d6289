"""Architectures: one file = one architecture = one paper, found by file name. The door for Python users.

A model file exports `Config`, `layers(config)`, `list_length(config)`, `TENSOR_PLAN`, and if needed
`shared_weights(config)`; `INPUTS`, name -> `hierlm.nn.input_spec.InputSpec` of what it reads beside the tokens; and
`PARAM_RULES`, a tuple of `hierlm.optim.config.ParameterRule`: learning rates and weight decays that some of its
parameters need, which `optim.rules` of a run may overrule; and `SEES`, a frozenset of "past" (a token's logits hang
on nothing behind it, the default) and "all", which says what objectives it can have.
It imports torch only inside `layers`, so that its Config is checked where torch is not installed.
"""

from types import ModuleType
from typing import TYPE_CHECKING, Any

from hierlm.discovery import is_named, module_named, names_in

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hierlm.models.assembly import LanguageModel

_NOT_ARCHITECTURES = frozenset({"assembly", "config", "decoding", "exported", "presets", "weightless"})


def names() -> list[str]:
    """Every architecture: the files of this package and what plugins add."""
    return names_in(__name__, besides=_NOT_ARCHITECTURES)


def is_known(name: object) -> bool:
    """Whether there is such an architecture; a plugin's too."""
    return is_named(name, package=__name__, besides=_NOT_ARCHITECTURES)


def architecture(name: str) -> ModuleType:
    """The module of one architecture; ValueError names the known ones."""
    if not is_known(name):
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(names())}")
    return module_named(name, package=__name__)


def sees(architecture: ModuleType) -> frozenset[str]:
    """What tokens of a model can see: `past` alone, or `all`."""
    return frozenset(getattr(architecture, "SEES", ("past",)))


def from_config(source: "str | Path | Mapping[str, Any]", *, seed: int | None = None) -> "LanguageModel":
    """A single-device torch module from a YAML path or a mapping with a `model:` part.

    `seed` decides the initial weights; by default the file's own `seed`, else that of RunConfig.
    """
    from hierlm.models.assembly import model_from_source

    return model_from_source(source, seed=seed)


def load(directory: "str | Path") -> "LanguageModel":
    """The model written by `hierlm checkpoint export`, in evaluation mode."""
    from hierlm.models.exported import load_exported

    return load_exported(directory)
