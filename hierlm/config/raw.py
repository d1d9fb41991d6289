"""From a YAML file and `a.b=c` words to one plain mapping, before any type is checked."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hierlm import yaml12
from hierlm.config.problem import Problem, given
from hierlm.errors import UserError
from hierlm.interpolation import RefusedError, refused, resolved_values

ALTERNATIVES = (
    frozenset({"steps", "tokens"}),
    frozenset({"path", "sources"}),
    frozenset({"final", "final_fraction"}),
)
"""Keys of one mapping that exclude each other: naming one displaces a default or inherited other."""

RATE, BEGINS_A_CURVE = "learning_rate", "restarts_learning_rate"

_BEGINS_INTERPOLATION = re.compile(r"(\\*)\$\{")
"""With the backslashes before it, which would escape it, or each other."""

NOT_INHERITED = frozenset({"name", BEGINS_A_CURVE})
"""Fields of a phase that do not default to the phase before."""


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The mapping a YAML file holds, interpolations unresolved; one UserError line for a file that holds none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_mapping(text, source=str(path))


def parse_mapping(text: str, *, source: str) -> dict[str, Any]:
    """See `read_mapping`; `source` is how the text is called in an error."""
    try:
        loaded = yaml12.load(text)
        if isinstance(loaded, dict):
            loaded = OmegaConf.to_container(OmegaConf.create(loaded), resolve=False)
    except yaml.MarkedYAMLError as error:
        raise UserError(f"{source}: {_where(error)}: {error.problem or error.context}") from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{source}: not YAML: {_first_line(error)}") from None
    except RecursionError:
        raise UserError(f"{source}: not YAML: is nested too deeply") from None
    if not isinstance(loaded, dict) or not loaded:
        what = "the file is empty" if loaded in (None, {}) else f"given {given(loaded)}"
        raise UserError(f"{source}: {what}, allowed: a mapping of `key: value` lines")
    return {str(key): value for key, value in loaded.items()}


def escaped(node: Any) -> Any:
    """A resolved value as it is to be written, so that `resolved` gives it back: `${` begins an interpolation."""
    if isinstance(node, dict):
        return {key: escaped(value) for key, value in node.items()}
    if isinstance(node, list):
        return [escaped(item) for item in node]
    return _BEGINS_INTERPOLATION.sub(r"\1\1\\${", node) if isinstance(node, str) else node


def overridden(raw: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[Problem]]:
    """`raw` with each `dotted.key=value` set, in order; list items are addressed by their index."""
    result, problems = dict(raw), []
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not all(key.split(".")):
            problems.append(Problem(path=word, text="not an override, allowed: dotted.key=value"))
            continue
        try:
            result = _assigned(result, key.split("."), _value(text), path=())
        except UserError as error:
            problems.append(Problem(path=key, text=str(error)))
    return result, problems


def resolved(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """`raw` with `${...}` replaced, plus a problem for each number that is not finite."""
    try:
        container = resolved_values(raw)
    except OmegaConfBaseException as error:
        return dict(raw), [Problem(path=str(error.full_key or "file"), text=refused(error) or _first_line(error))]
    except RefusedError as error:
        return dict(raw), [Problem(path="file", text=str(error))]
    except RecursionError:
        return dict(raw), [Problem(path="file", text="is nested too deeply, or names itself")]
    assert isinstance(container, dict)
    mapping = {str(key): value for key, value in container.items()}
    return mapping, list(_not_finite(mapping, path=()))


def as_written(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` without the rates that a resolved file repeats where a phase goes on with the curve of the one before.

    So a word on the command line means the same beside a run's own config as beside the file the run was made from.
    """
    phases = raw.get("phases")
    if not isinstance(phases, list):
        return dict(raw)
    pairs = zip([None, *phases], phases, strict=False)
    return {**raw, "phases": [_without_repeated_rate(phase, before) for before, phase in pairs]}


def _without_repeated_rate(phase: Any, before: Any) -> Any:
    """A rate other than that of the phase before is kept: it was not repeated but written."""
    if not isinstance(phase, dict) or not isinstance(before, dict) or phase.get(BEGINS_A_CURVE) is not False:
        return phase
    repeated = {BEGINS_A_CURVE} if phase.get(RATE) != before.get(RATE) else {BEGINS_A_CURVE, RATE}
    return {key: value for key, value in phase.items() if key not in repeated}


def with_inherited_phases(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of a later phase defaults to the phase before; a rate that is named is a curve of its own, whole."""
    phases = raw.get("phases")
    if not isinstance(phases, list):
        return dict(raw)
    complete: list[Any] = []
    before: dict[str, Any] = {}
    for index, phase in enumerate(phases):
        if isinstance(phase, dict):
            own = NOT_INHERITED | ({RATE} & phase.keys())
            before = merged({key: value for key, value in before.items() if key not in own}, phase)
            before.setdefault(BEGINS_A_CURVE, index == 0 or RATE in phase)
            complete.append(before)
        else:
            complete.append(phase)
    return {**raw, "phases": complete}


def merged(base: Any, new: Any) -> Any:
    """`new` over `base`, field by field where both are mappings."""
    if not (isinstance(base, dict) and isinstance(new, dict)):
        return new
    kept = {key: value for key, value in base.items() if not _displaced(key, new)}
    return {**kept, **{key: merged(base.get(key), value) for key, value in new.items()}}


def _displaced(key: str, new: Mapping[str, Any]) -> bool:
    return key not in new and any(key in group and not group.isdisjoint(new) for group in ALTERNATIVES)


def _assigned(node: Any, keys: Sequence[str], value: Any, *, path: tuple[str, ...]) -> Any:
    """A copy of `node` with the item at `keys` replaced, or merged where old and new are mappings."""
    if not keys:
        return merged(node, value)
    key, rest = keys[0], keys[1:]
    if isinstance(node, list):
        if not key.isdecimal() or int(key) >= len(node):
            raise UserError(_wrong_index(node, key, path=path))
        return [_assigned(x, rest, value, path=(*path, key)) if i == int(key) else x for i, x in enumerate(node)]
    base = node if isinstance(node, dict) else {}
    kept = {k: v for k, v in base.items() if not _displaced(k, {key: value})}
    return {**kept, key: _assigned(base.get(key), rest, value, path=(*path, key))}


def _wrong_index(node: list[Any], key: str, *, path: tuple[str, ...]) -> str:
    allowed = f"0 to {len(node) - 1}" if len(node) > 1 else "0" if node else "none"
    return f"{'.'.join(path)} is a list of {len(node)}, given index {key!r}, allowed: {allowed}"


def _value(text: str) -> Any:
    """A YAML value; a plain word is taken as written, so a path may hold ` #` or a line break."""
    try:
        parsed = yaml12.load(f"value: {text}")
    except (yaml.YAMLError, ValueError):
        return text
    if not isinstance(parsed, dict):
        return text
    value = parsed.get("value")
    quoted = text.lstrip()[:1] in ("'", '"')
    if set(parsed) != {"value"} or (isinstance(value, str) and not quoted):
        return text
    return value


def _not_finite(node: Any, *, path: tuple[str, ...]) -> list[Problem]:
    if isinstance(node, float) and not math.isfinite(node):
        return [Problem(path=".".join(path), text=f"given {node}, allowed: a finite number")]
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [problem for key, value in items for problem in _not_finite(value, path=(*path, str(key)))]


def _where(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return "not YAML" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
