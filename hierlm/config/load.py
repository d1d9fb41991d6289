"""A run's YAML file with dotted overrides -> RunConfig, or every problem of it at once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hierlm import models, objectives, plugins, yaml12
from hierlm.config import rules
from hierlm.config.problem import Problem, given, nearest, sentence
from hierlm.config.raw import (
    ALTERNATIVES,
    BEGINS_A_CURVE,
    RATE,
    as_written,
    escaped,
    overridden,
    read_mapping,
    resolved,
    with_inherited_phases,
)
from hierlm.config.repair import repaired
from hierlm.config.run_config import DEFAULT_OPTIMIZER, RunConfig
from hierlm.config.schema import checked
from hierlm.config.typed import Chosen, typed_run_config
from hierlm.errors import UserError
from hierlm.models.config import ModelConfig
from hierlm.objectives.config import DEFAULT_OBJECTIVE
from hierlm.optim import optimizers


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig[ModelConfig]:
    """The checked config of a file; `overrides` are words like `phases.0.sequence_length=512`.

    Raises UserError with one line per problem: `FILE: dotted.path: given, allowed, nearest valid name`.
    """
    raw = read_mapping(path)
    mapping, problems = overridden(as_written(raw), overrides)
    written, more = resolved(mapping)
    keys = [word.partition("=")[0] for word in overrides]
    config, found = check_mapping(written, is_recorded=_is_recorded(raw, override_keys=keys))
    problems += more + found
    if problems or config is None:
        raise UserError([_line(problem, source=str(path), override_keys=keys) for problem in problems])
    return config


def load_run_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig[ModelConfig]:
    """The config that a run keeps beside its checkpoints. The error says how a damaged one comes back."""
    try:
        return load_config(path, overrides)
    except UserError as error:
        mend = f"{path}: `hierlm train` with the config that the run was made from mends it: its checkpoints hold it"
        raise UserError([*error.problems, mend]) from None


def check_mapping(
    written: Mapping[str, Any], *, is_recorded: bool = False
) -> tuple[RunConfig[ModelConfig] | None, list[Problem]]:
    """The config a user's mapping means, or every problem: of the schema, the train switches and the rules.

    `is_recorded`: its phases are those of a run already accepted, and rules made since are not held against them.
    """
    raw, of_plugins = _with_plugins(with_inherited_phases(written))
    config_class, problems = _config_class(raw.get("model"))
    arch_unknown = bool(problems)
    chosen, of_choices = _chosen(config_class, raw)
    readable = {**raw, "model": {"arch": "?"}} if arch_unknown else dict(raw)
    for problem in of_choices:
        del readable[problem.path.partition(".")[0]]
    config, found = checked(typed_run_config(chosen, raw=readable), readable)
    problems += of_plugins + of_choices + found + ([] if arch_unknown else _switch_problems(config_class, raw))
    if config is not None and not problems:
        conflicts = rules.conflicts(config)
    else:
        conflicts = _conflicts_of_the_rest(readable, problems, chosen=chosen)
    if is_recorded:
        conflicts = [conflict for conflict in conflicts if not conflict.spares_records]
    problems = [_with_reason(problem) for problem in _without_inherited(problems + conflicts, written)]
    return (None if problems else config), problems


def _conflicts_of_the_rest(raw: Mapping[str, Any], problems: Sequence[Problem], *, chosen: Chosen) -> list[Problem]:
    """Conflicts that rest on nothing reported already, where a stand-in value would be judged."""
    wrong = [problem.path for problem in problems]
    stand_in = repaired(raw, wrong, chosen=chosen)
    doubtful = [path for problem in problems for path in (problem.path, *problem.involves)]
    conflicts = [] if stand_in is None else rules.conflicts(stand_in)
    return [conflict for conflict in conflicts if not any(map(conflict.concerns, doubtful))]


def _is_recorded(raw: Mapping[str, Any], *, override_keys: Sequence[str]) -> bool:
    """Whether a file holds the phases of a run as they were resolved, and the command line leaves them so."""
    phases = raw.get("phases")
    marked = isinstance(phases, list) and all(isinstance(p, dict) and BEGINS_A_CURVE in p for p in phases)
    return marked and not any(key.partition(".")[0] == "phases" for key in override_keys)


def dump_config(config: RunConfig[ModelConfig]) -> str:
    """YAML of the resolved config; `load_config` reads it back equal."""
    return yaml12.dump(escaped(plain_config(config)))


def plain_config(config: RunConfig[ModelConfig]) -> dict[str, Any]:
    """The resolved config as a mapping that `check_mapping` reads back equal."""
    plain: dict[str, Any] = _without_unused_units(config.model_dump(mode="json"))
    return plain


def _with_plugins(raw: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Plugins are loaded before anything is checked that they may name; their entries tell what was loaded."""
    entries = raw.get("plugins", ())
    try:
        taken = plugins.take_up(entries if isinstance(entries, list | tuple) else ())
    except UserError as error:
        return {**raw, "plugins": ()}, [Problem("plugins", text) for text in error.problems]
    return ({**raw, "plugins": taken} if taken else raw), []


def _config_class(part: object) -> tuple[type[ModelConfig], list[Problem]]:
    """The architecture's own Config, or the base class and the reason."""
    if not isinstance(part, Mapping):
        return ModelConfig, []
    if "arch" not in part:
        return ModelConfig, [Problem("model.arch", sentence("missing", allowed=", ".join(models.names())))]
    arch = part["arch"]
    if not models.is_known(arch):
        known = models.names()
        text = sentence(f"given {given(arch)}", allowed=", ".join(known), near=nearest(arch, known))
        return ModelConfig, [Problem("model.arch", text)]
    config_class: type[ModelConfig] = models.architecture(str(arch)).Config
    return config_class, []


def _chosen(model: type[ModelConfig], raw: Mapping[str, Any]) -> tuple[Chosen, list[Problem]]:
    """The Configs of objective and optimizer by their `name`; of a name that is not known the default's, and why."""
    chosen, problems = {"objective": DEFAULT_OBJECTIVE, "optim": DEFAULT_OPTIMIZER}, list[Problem]()
    for part, room in (("objective", objectives), ("optim", optimizers)):
        written = raw.get(part)
        name = written.get("name", chosen[part]) if isinstance(written, Mapping) else chosen[part]
        if room.is_known(name):
            chosen[part] = name
        else:
            known = room.names()
            text = sentence(f"given {given(name)}", allowed=", ".join(known), near=nearest(name, known))
            problems.append(Problem(f"{part}.name", text))
    objective, optimizer = objectives.objective(chosen["objective"]), optimizers.optimizer(chosen["optim"])
    return Chosen(model, objective.Config, optimizer.Config), problems


def _switch_problems(config_class: type[ModelConfig], raw: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with `phases.N.model`: only train switches, with values the architecture's Config accepts."""
    part, phases = raw.get("model"), raw.get("phases")
    if not isinstance(part, dict) or not isinstance(phases, list):
        return []
    base_ok = checked(config_class, part)[0] is not None
    problems = []
    for index, phase in enumerate(phases):
        switches = phase.get("model") if isinstance(phase, dict) else None
        if isinstance(switches, dict):
            found = _switches_of_a_phase(config_class, part, switches, base_ok=base_ok)
            problems += [Problem(f"phases.{index}.model{p.path and '.'}{p.path}", p.text) for p in found]
    return problems


def _switches_of_a_phase(
    config_class: type[ModelConfig], part: dict[str, Any], switches: dict[str, Any], *, base_ok: bool
) -> list[Problem]:
    allowed = sorted(config_class.train_switches())
    problems = []
    for key, value in switches.items():
        if key not in allowed:
            why = "fixed for the whole run" if key in config_class.model_fields else "unknown key"
            names = ", ".join(allowed) or f"nothing ({part.get('arch')} has no train-time switches)"
            problems.append(
                Problem(key, sentence(f"{why} (given {given(value)})", allowed=names, near=nearest(key, allowed)))
            )
    usable = {key: value for key, value in switches.items() if key in allowed}
    for problem in checked(config_class, {**part, **usable})[1]:
        if problem.path.partition(".")[0] in usable:
            problems.append(problem)
        elif base_ok and usable:
            problems.append(Problem("", f"with {given(usable)}: {problem.text}"))
    return problems


def _with_reason(problem: Problem) -> Problem:
    """Why a later phase lacks a peak that an earlier one has."""
    match problem.path.split("."):
        case ["phases", index, "learning_rate", "peak"] if index != "0" and problem.text.startswith("missing"):
            reason = "a phase that names a learning_rate begins a new curve, of which nothing is inherited"
            return replace(problem, text=f"{problem.text}; {reason}")
    return problem


def _without_inherited(problems: Sequence[Problem], written: Mapping[str, Any]) -> list[Problem]:
    """A problem that a later phase only inherits is told once, where it was written."""
    reported = {(problem.path, problem.text) for problem in problems}
    return [problem for problem in problems if not _is_inherited(problem, reported, written)]


def _is_inherited(problem: Problem, reported: set[tuple[str, str]], written: Mapping[str, Any]) -> bool:
    match problem.path.split("."):
        case ["phases", index, *rest] if rest and index.isdecimal() and int(index) > 0:
            earlier = (".".join(["phases", str(int(index) - 1), *rest]), problem.text)
            at = rest[:1] if rest[0] == RATE else rest  # a rate that is written is so as a whole
            return earlier in reported and not _is_written(written["phases"][int(index)], at)
    return False


def _is_written(node: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True


def _line(problem: Problem, *, source: str, override_keys: Sequence[str]) -> str:
    typed = any(Problem(key, "").concerns(problem.path) for key in override_keys)
    return f"{source}: {problem.path}: {problem.text}" + (" (set on the command line)" if typed else "")


def _without_unused_units(node: Any) -> Any:
    """A duration is written with its one unit, the end of a curve in its one way."""
    if isinstance(node, list):
        return [_without_unused_units(item) for item in node]
    if not isinstance(node, dict):
        return node
    unused = {key for group in ALTERNATIVES if group <= node.keys() for key in group if node[key] is None}
    return {key: _without_unused_units(value) for key, value in node.items() if key not in unused}
