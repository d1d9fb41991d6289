"""What there is to know of an architecture without building it."""

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hierlm import models
from hierlm.config.raw import read_mapping
from hierlm.errors import UserError
from hierlm.models.config import ModelConfig
from hierlm.optim import optimizers
from hierlm.optim.config import OptimConfig
from hierlm.phases import schedules
from hierlm.phases.config import LearningRateConfig
from launcher.provenance import SOURCE_ROOT

if TYPE_CHECKING:
    from hierlm.contract.case import Case

TINY_CONFIGS = SOURCE_ROOT / "configs" / "tiny"


@dataclass(frozen=True)
class ConfigField:
    """One key of the `model:` part."""

    name: str
    type: str
    required: bool
    default: Any
    description: str
    is_train_switch: bool  # a phase may change it


@dataclass(frozen=True)
class Architecture:
    """One file of hierlm/models."""

    name: str
    summary: str
    paper: str
    fields: tuple[ConfigField, ...]


def describe(name: str) -> dict[str, Any]:
    """An architecture as plain data; ValueError for an unknown one."""
    module = models.architecture(name)
    config: type[ModelConfig] = module.Config
    fields = tuple(
        _field(field_name, field, is_train_switch=field_name in config.train_switches())
        for field_name, field in config.model_fields.items()
        if field_name != "arch"
    )
    summary = (inspect.getdoc(module) or "").partition("\n")[0]
    return asdict(Architecture(name, summary, getattr(module, "PAPER", ""), fields))


def small_case(name: str, *, config: Path | None) -> "Case":
    """What the contract's checks look at: the `model:` of a file, else the SMALL of the architecture's file, else the
    tiny config that comes with the sources. UserError where there is none or it is wrong."""
    from hierlm.config.schema import checked
    from hierlm.contract.case import Case

    if not models.is_known(name):
        raise UserError(f"{name}: no such architecture, allowed: {', '.join(models.names())}")
    module, where = models.architecture(name), config or TINY_CONFIGS / f"{name}.yaml"
    if config is None and hasattr(module, "SMALL"):
        part, source = dict(module.SMALL), f"{name}.SMALL"
    elif where.is_file():
        part, source = dict(read_mapping(where).get("model") or {}), str(where)
    else:
        raise UserError(f"{config or name}: no config to build; define SMALL in its file, or give --config FILE")
    part = {**part, "arch": name}
    problems = checked(module.Config, part)[1]
    if problems:
        raise UserError([f"{source}: {problem.path}: {problem.text}" for problem in problems])
    return Case(part)


def choices() -> list[str]:
    """A line for each optimizer and schedule: what the config calls it, its first line, its own fields."""
    kinds: dict[str, tuple[Any, Any, type[BaseModel]]] = {
        "optim.name": (optimizers.names(), optimizers.optimizer, OptimConfig),
        "learning_rate.decay": (schedules.names(), schedules.schedule, LearningRateConfig),
    }
    return [_choice(key, name, module(name), base) for key, (names, module, base) in kinds.items() for name in names]


def _choice(key: str, name: str, module: ModuleType, base: type[BaseModel]) -> str:
    config: type[BaseModel] = getattr(module, "Config", base)
    own = [field for field in config.model_fields if field not in base.model_fields]
    summary = (inspect.getdoc(module) or "").partition("\n")[0]
    return f"{key}={name}: {summary}" + (f" Fields: {', '.join(own)}" if own else "")


def listing(architectures: Sequence[dict[str, Any]], *, with_fields: bool) -> str:
    """For people: a paragraph each."""
    return "\n\n".join(_paragraph(architecture, with_fields=with_fields) for architecture in architectures)


def _paragraph(architecture: dict[str, Any], *, with_fields: bool) -> str:
    head = [architecture["name"], f"  {architecture['summary']}", f"  paper: {architecture['paper']}"]
    if with_fields:
        return "\n".join([*head, "  fields:", *(f"    {_field_line(field)}" for field in architecture["fields"])])
    return "\n".join([*head, f"  fields: {', '.join(field['name'] for field in architecture['fields'])}"])


def _field_line(field: dict[str, Any]) -> str:
    default = "required" if field["required"] else f"default {field['default']!r}"
    switch = ", a phase may change it" if field["is_train_switch"] else ""
    description = f": {field['description']}" if field["description"] else ""
    return f"{field['name']} ({field['type']}, {default}{switch}){description}"


def _field(name: str, field: FieldInfo, *, is_train_switch: bool) -> ConfigField:
    return ConfigField(
        name=name,
        type=_type_name(field.annotation),
        required=field.is_required(),
        default=_default(field),
        description=field.description or "",
        is_train_switch=is_train_switch,
    )


def _default(field: FieldInfo) -> Any:
    """That without a preset."""
    found = field.get_default(call_default_factory=True, validated_data={})
    return None if found is PydanticUndefined else found


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    return str(annotation).replace("typing.", "")
