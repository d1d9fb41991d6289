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
    """What decides the numbers: seed, model, data, phases, optimizer, precision. Not layout, cadence or tracking."""
    plain = config.model_dump(mode="json")
    parts = {key: plain[key] for key in ("seed", "model", "phases", "optim")}
    sources = [source.model_dump(mode="json") for source in config.data.weighted_sources]
    return {**parts, "data": {"sources": sources}, "train": {"precision": config.train.precision}}


def fingerprint(config: Config) -> str:
    """A hash of the structural part: equal exactly where `differences` is empty."""
    return hashlib.sha256(json.dumps(structural(config), sort_keys=True).encode()).hexdigest()


def differences(old: Config, new: Config) -> list[str]:
    """`dotted.path: old -> new` for each structural difference; empty when a resume goes on with the same numbers."""
    return list(_changes(structural(old), structural(new)))


def harmless_differences(old: Config, new: Config) -> list[str]:
    """The differences in everything else, in the same form."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    told_elsewhere = ("seed", "model", "phases", "optim", "train.precision", "data.path", "data.sources", "run_root")
    return [
        change
        for change in _changes(before, after)
        if not any(f"{change.partition(':')[0]}.".startswith(f"{path}.") for path in told_elsewhere)
    ]


def is_extended(old: Config, new: Config) -> bool:
    """Whether `new` is `old` made longer at its end: a longer last phase, or phases added behind it."""
    last = len(old.phases) - 1
    if len(new.phases) < len(old.phases) or new.phases[:last] != old.phases[:last]:
        return False
    grown = new.phases[last]
    same_but_longer = _without_duration(grown) == _without_duration(old.phases[last])
    longer = grown.num_steps - old.phases[last].num_steps
    rest_alike = not differences(old, new.model_copy(update={"phases": old.phases}))
    return same_but_longer and rest_alike and (longer > 0 or (longer == 0 and len(new.phases) > len(old.phases)))


def _without_duration(phase: PhaseConfig) -> dict[str, Any]:
    return phase.model_dump(exclude={"duration"})


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
