"""Which tensor of a source becomes which parameter: names against names, shapes against shapes. Pure python."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from hierlm.checkpoint.config import InitFromConfig
from hierlm.checkpoint.safetensors_header import shown
from hierlm.errors import UserError
from hierlm.phases.name_patterns import matches, without_match

Shapes = Mapping[str, tuple[int, ...]]

NAMES_TOLD = 5
"""Of each kind; the rest is counted."""

RENAME = (
    "init_from: rename with init_from.map, leave out with init_from.exclude, or set init_from.strict=false: then what "
    "is missing begins as it is drawn, and what is not known here is left"
)
RESIZE = "init_from: give the model the sizes it has there, or leave these out with init_from.exclude"


class Assignment(NamedTuple):
    """What becomes of the names of both sides."""

    taken: Mapping[str, str]  # parameter here -> tensor there
    drawn: Sequence[str]  # parameters that begin as without a source
    left: Sequence[str]  # tensors there that nobody reads


def assign(init_from: InitFromConfig, *, there: Shapes, here: Shapes, source: str, vocab_size: int) -> Assignment:
    """`there` and `here` are the shapes by name. UserError with all that does not fit, and what comes near it."""
    called, problems = _renamed(init_from, there)
    excluded = [name for name in here if any(matches(pattern, name) for pattern in init_from.exclude)]
    kept = {called[name]: name for name in there if not _is_excluded(called[name], init_from)}
    problems += _map_problems(init_from, there) + _exclude_problems(init_from, names=[*here, *called.values()])
    wanted = [name for name in here if name not in set(excluded)]
    missing = [name for name in wanted if name not in kept]
    unknown = [name for name in kept if name not in here]
    misshaped = [name for name in wanted if name in kept and there[kept[name]] != here[name]]
    fault = f"init_from: {source}: "
    if init_from.strict and (missing or unknown):
        problems += [fault + line for line in _unmatched(missing, unknown, here=here, there=there, kept=kept)]
    problems += [fault + line for line in _misshaped(misshaped, here=here, there=there, kept=kept)]
    problems += _vocabulary(misshaped, here=here, there=there, kept=kept, vocab_size=vocab_size)
    problems += [RESIZE] * bool(misshaped) + [RENAME] * (init_from.strict and bool(missing or unknown))
    taken = {name: kept[name] for name in wanted if name in kept}
    if not problems and not taken:
        problems = [
            f"{fault}none of its names is one of this model's, so that nothing would be taken; see init_from.map"
        ]
    if problems:
        raise UserError(problems)
    return Assignment(taken, drawn=[*excluded, *missing], left=[*unknown, *(set(there) - set(kept.values()))])


def _is_excluded(name: str, init_from: InitFromConfig) -> bool:
    return any(matches(pattern, name) for pattern in init_from.exclude)


def _renamed(init_from: InitFromConfig, there: Shapes) -> tuple[dict[str, str], list[str]]:
    """What each tensor is called here; two may not become one."""
    patterns = [(re.compile(pattern), name) for pattern, name in init_from.map.items()]
    called, problems, origin = dict[str, str](), list[str](), dict[str, str]()
    for name in there:
        match = next(((found, new) for pattern, new in patterns if (found := pattern.fullmatch(name))), None)
        called[name] = name if match is None else match[0].expand(match[1])
        other = origin.setdefault(called[name], name)
        if other != name:
            problems.append(
                f"init_from.map: {shown(other)} and {shown(name)} would both be {shown(called[name])}, allowed: one"
            )
    return called, problems[:NAMES_TOLD]


def _map_problems(init_from: InitFromConfig, there: Shapes) -> list[str]:
    return [
        f'init_from.map: given "{pattern}", which is the whole name of no tensor there, nearest: '
        f"{', '.join(_nearest(pattern, there, most=3))}"
        for pattern in init_from.map
        if not any(re.fullmatch(pattern, name) for name in there)
    ]


def _exclude_problems(init_from: InitFromConfig, *, names: Sequence[str]) -> list[str]:
    problems = ((number, without_match(pattern, names)) for number, pattern in enumerate(init_from.exclude))
    return [f"init_from.exclude.{number}: {problem}" for number, problem in problems if problem]


def _unmatched(
    missing: Sequence[str], unknown: Sequence[str], *, here: Shapes, there: Shapes, kept: Mapping[str, str]
) -> list[str]:
    """One line for each kind."""
    lines = []
    if missing:
        near = {name: _nearest(name, unknown or kept, most=1) for name in missing[:NAMES_TOLD]}
        told = [f"{name} {list(here[name])}{_hint(near[name])}" for name in near]
        lines.append(f"missing there, {len(missing)} of {len(here)}: {_listed(told, of=missing)}")
    if unknown:
        near = {name: _nearest(name, missing or here, most=1) for name in unknown[:NAMES_TOLD]}
        told = [f"{shown(name)} {list(there[kept[name]])}{_hint(near[name])}" for name in near]
        lines.append(f"not known here, {len(unknown)} of {len(there)}: {_listed(told, of=unknown)}")
    return lines


def _misshaped(names: Sequence[str], *, here: Shapes, there: Shapes, kept: Mapping[str, str]) -> list[str]:
    if not names:
        return []
    told = [f"{name} {list(there[kept[name]])} there, {list(here[name])} here" for name in names[:NAMES_TOLD]]
    return [f"of another shape, {len(names)} of {len(here)}: {_listed(told, of=names)}"]


def _vocabulary(
    names: Sequence[str], *, here: Shapes, there: Shapes, kept: Mapping[str, str], vocab_size: int
) -> list[str]:
    """How weights of another vocabulary are left out."""
    found = {name: there[kept[name]] for name in names if here[name][:1] == (vocab_size,)}
    of_tokens = {name: shape for name, shape in found.items() if shape and shape[1:] == here[name][1:]}
    if not of_tokens:
        return []
    size = next(iter(of_tokens.values()))[0]
    patterns = ", ".join(re.escape(name) for name in of_tokens)
    return [
        f"init_from: its vocabulary has {size} tokens, model.vocab_size is {vocab_size}: the same token is another row "
        f"there; with init_from.exclude=[{patterns}] these weights begin as they are drawn"
    ]


def _listed(told: Sequence[str], *, of: Sequence[str]) -> str:
    return "; ".join(told) + (f"; and {len(of) - len(told)} more" if len(of) > len(told) else "")


def _hint(near: Sequence[str]) -> str:
    return f" (nearest: {shown(near[0])})" if near else ""


def _nearest(name: str, names: Iterable[str], *, most: int) -> list[str]:
    return difflib.get_close_matches(name.replace("\\", ""), list(names), n=most, cutoff=0.0)
