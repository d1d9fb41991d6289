"""Which parts of a config decide a run's numbers, and how two configs differ in them."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from hierlm.config.problem import given
from hierlm.config.run_config import RunConfig
from hierlm.models.config import ModelConfig
from hierlm.phases.config import PhaseConfig

Config = RunConfig[ModelConfig]

_ABSENT = object()


def structural(config: Config) -> dict[str, Any]:
    """What decides the numbers: seed, model, objective, data weights, phases, optimizer, precision, first weights.

    Not layout, cadence, tracking.

    Nor where the data lies: a checkpoint knows its datasets by fingerprint, so they may move but not change.
    """
    plain = config.model_dump(mode="json")
    parts = {key: plain[key] for key in ("seed", "model", "objective", "optim")}
    parts["phases"] = [_plain_phase(phase) for phase in config.phases]
    if config.init_from is not None:  # a run that draws its first weights has the fingerprint that it always had
        parts["init_from"] = plain["init_from"]
    sources = [{"weight": source.weight} for source in config.data.weighted_sources]
    return {**parts, "data": {"sources": sources}, "train": {"precision": config.train.precision}}


def _plain_phase(phase: PhaseConfig) -> dict[str, Any]:
    """A phase by what it means: the end of its curve as a rate, however it was written."""
    plain, curve = phase.model_dump(mode="json"), phase.learning_rate
    rate = {key: value for key, value in plain["learning_rate"].items() if key != "final_fraction"}
    return {**plain, "learning_rate": {**rate, "final": curve.final_rate}}


def fingerprint(config: Config) -> str:
    """A hash of the structural part: equal exactly where `differences` is empty."""
    return hashlib.sha256(json.dumps(structural(config), sort_keys=True).encode()).hexdigest()


def differences(old: Config, new: Config) -> list[str]:
    """`dotted.path: old -> new` for each structural difference; empty when a resume goes on with the same numbers."""
    changes = list(_changes(structural(old), structural(new)))
    if old.optim.name == new.optim.name:
        return changes
    # another optimizer has other fields, too
    return [change for change in changes if not change.startswith("optim.") or change.startswith("optim.name:")]


def harmless_differences(old: Config, new: Config) -> list[str]:
    """The differences in everything else, in the same form."""
    before, after = _with_data_paths(old), _with_data_paths(new)
    compared_elsewhere = ("seed", "model", "objective", "phases", "optim", "train.precision", "run_root", "init_from")
    return [
        change
        for change in _changes(before, after)
        if not any(f"{change.partition(':')[0]}.".startswith(f"{path}.") for path in compared_elsewhere)
    ]


def _with_data_paths(config: Config) -> dict[str, Any]:
    plain = config.model_dump(mode="json")
    paths = [str(source.path) for source in config.data.weighted_sources]
    data = {key: value for key, value in plain["data"].items() if key not in ("path", "sources")}
    return {**plain, "data": {**data, "path": paths[0] if len(paths) == 1 else paths}}


def is_extended(old: Config, new: Config) -> bool:
    """Whether `new` is `old` made longer at its end: a longer last phase, or phases added behind it."""
    last = len(old.phases) - 1
    before, after = ([_plain_phase(phase) for phase in config.phases] for config in (old, new))
    if len(after) < len(before) or after[:last] != before[:last]:
        return False
    grown = new.phases[last]
    same_but_longer = {**after[last], "duration": None} == {**before[last], "duration": None}
    longer = grown.num_steps - old.phases[last].num_steps
    rest_alike = not differences(old, new.model_copy(update={"phases": old.phases}))
    return same_but_longer and rest_alike and (longer > 0 or (longer == 0 and len(new.phases) > len(old.phases)))


def _changes(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Walk two plain trees; a part on one side only is one line."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _changes(old.get(key, _ABSENT), new.get(key, _ABSENT), (*path, str(key)))
    elif isinstance(old, list) and isinstance(new, list):
        for index, (before, after) in enumerate(zip_longest(old, new, fillvalue=_ABSENT)):
            yield from _changes(before, after, (*path, str(index)))
    elif old != new:
        yield f"{'.'.join(path)}: {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else given(value)
