"""How a family's data are read: names and fields of theirs as ours, and back. Pure python."""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from hierlm.errors import UserError

MISSING = object()


SILENT = (
    *("architectures", "torch_dtype", "dtype", "transformers_version", "use_cache", "_name_or_path", "return_dict"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "task_specific_params"),
    *("id2label", "label2id", "problem_type", "chunk_size_feed_forward"),
)
"""Fields of every config.json that change no number of a language model's forward pass."""


PLAIN: dict[str, Any] = {
    "logit_soft_cap": None,
    "qk_norm": "none",
    "block_order": "pre",
    "rotary_layout": "half_split",
    "sandwich": 0,
    "attention_windows": [],
}
"""Options of ours that a family without a word of them does not have; for `IMPLIED`."""


class Tensors(NamedTuple):
    """Tensors of one kind: `{layer}` there counts layers from 0; here are `{block}` (layer + 1), `{norm}`, `{head}`.

    Several parameters here are one below the other in one tensor there, in equal parts.
    """

    theirs: str
    ours: tuple[str, ...]
    is_transposed: bool = False


class Field(NamedTuple):
    """A field of ours that one of theirs gives; `default` is theirs where a config.json leaves it out."""

    ours: str
    default: Any = MISSING


class Part(NamedTuple):
    """Where a parameter of ours lies in a tensor of theirs: as the `place`-th `of` so many equal parts of its rows."""

    theirs: str
    is_transposed: bool
    place: int
    of: int


def parts(family: ModuleType, *, num_layers: int, prefix: str = "") -> dict[str, Part]:
    """Canonical name -> where it is in a model of so many layers."""
    found: dict[str, Part] = {}
    for rule in family.TENSORS:
        layers = range(num_layers) if "{layer}" in rule.theirs else (0,)
        for layer in layers:
            places = {"layer": layer, "block": layer + 1, "norm": num_layers + 1, "head": num_layers + 2}
            theirs = prefix + rule.theirs.format(**places)
            for place, name in enumerate(rule.ours):
                found[name.format(**places)] = Part(theirs, rule.is_transposed, place, len(rule.ours))
    return found


def prefix_of(family: ModuleType, there: Iterable[str]) -> str:
    """The prefix under which most of a file's names are known."""
    names = list(there)
    heads = {rule.theirs.partition("{")[0] for rule in family.TENSORS}

    def known(prefix: str) -> int:
        return sum(any(name.startswith(prefix + head) for head in heads) for name in names)

    return max(family.PREFIXES, key=known)


def is_left(family: ModuleType, name: str, *, prefix: str) -> bool:
    """Whether a tensor of theirs is known to hold no weight of its own."""
    return any(re.fullmatch(pattern, name.removeprefix(prefix)) for pattern in family.LEFT)


def model_part(family: ModuleType, config: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The `model:` part here that a config.json there means. UserError with each field that cannot be represented."""
    problems = [
        f"{where}: {key}: given {_shown(config[key])}, allowed: {' or '.join(map(_shown, allowed))}, for no other "
        f"computation is known here"
        for key, allowed in family.FIXED.items()
        if key in config and config[key] not in allowed
    ]
    known = {*family.FIELDS, *family.FIXED, *family.SILENT, *SILENT, "model_type"}
    problems += [
        f"{where}: {key}: given {_shown(value)}, a field that is not known here: it may mean another computation"
        for key, value in config.items()
        if key not in known and value not in (None, False)
    ]
    part: dict[str, Any] = {"arch": family.ARCH, **family.IMPLIED}
    for key, field in family.FIELDS.items():
        value = config.get(key)
        if value is None and field.default is MISSING:
            problems.append(f"{where}: {key}: missing")
        else:
            part[field.ours] = field.default if value is None else value
    if problems:
        raise UserError(problems)
    completed: dict[str, Any] = family.completed(part)
    return completed


def their_config(family: ModuleType, part: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a `model:` part of ours; UserError where ours means what the family does not."""
    other = [
        f"model.{key}: given {_shown(found)}, allowed in a {_name(family)} model: {_shown(value)}"
        for key, value in {"arch": family.ARCH, **family.IMPLIED}.items()
        if (found := _value_of(part, key)) != value
    ]
    if other:
        raise UserError(other)
    fields = {key: part[field.ours] for key, field in family.FIELDS.items() if field.ours in part}
    return {"model_type": _name(family), **fields, **{key: allowed[0] for key, allowed in family.FIXED.items()}}


def different_fields(part: Mapping[str, Any], here: Mapping[str, Any]) -> Sequence[str]:
    """One line for each field in which a model here is another than `part`; both are `model:` parts."""
    return [
        f"model.{key}: given {_shown(found)}, and there it is {_shown(value)}"
        for key, value in part.items()
        if (found := _value_of(here, key)) != value
    ]


ABSENT = {"norm": "layer", "norm_epsilon": 1e-5, "biases": True, "rotary_base": 10_000.0, **PLAIN}
"""What models mean that have no such field."""

IN_PLACE_OF = {"num_kv_heads": "num_heads", "feed_forward": "activation"}
"""Fields that mean as much as another one where they say nothing."""


def _value_of(part: Mapping[str, Any], key: str) -> Any:
    found = part.get(key, ABSENT.get(key))
    return part.get(IN_PLACE_OF[key]) if found is None and key in IN_PLACE_OF else found


def _name(family: ModuleType) -> str:
    return family.__name__.rpartition(".")[2]


def _shown(value: Any) -> str:
    return ascii(value)[:60]
