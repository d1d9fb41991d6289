"""A config with its wrong parts replaced, so that the rules can judge what is right of it in the same go."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from hierlm.config.run_config import RunConfig
from hierlm.config.schema import checked
from hierlm.config.typed import Chosen, typed_run_config
from hierlm.models.config import ModelConfig

STAND_INS: dict[str, Any] = {
    "name": "run",
    "data": {"path": "data"},
    "duration": {"steps": 1},
    "sequence_length": 1,
    "global_batch_size": 1,
    "learning_rate": {"peak": 1.0},
    "peak": 1.0,
}
"""For fields without a default; rules that rest on them are not heard."""

MAX_ROUNDS = 3


def repaired(raw: Mapping[str, Any], wrong_paths: Iterable[str], *, chosen: Chosen) -> RunConfig[ModelConfig] | None:
    """`raw` without what is wrong; None when that still makes no config. A wrong model part is left out as a whole."""
    mapping, wrong = copy.deepcopy(dict(raw)), list(wrong_paths)
    paths = [path for path in wrong if path.partition(".")[0] != "model"]
    if len(paths) < len(wrong):
        mapping["model"], chosen = {"arch": "?"}, chosen._replace(model=ModelConfig)
    for _ in range(MAX_ROUNDS):
        for path in paths:
            _mend(mapping, path.split("."))
        config, problems = checked(typed_run_config(chosen, raw=mapping), mapping)
        if config is not None:
            return config
        paths = [problem.path for problem in problems]
    return None


def _mend(node: Any, keys: list[str]) -> None:
    """Remove what is at `keys`, so that a default holds; where nothing is, put a stand-in."""
    for key in keys[:-1]:
        if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, dict) and key in node:
            node = node[key]
        else:
            return
    last = keys[-1]
    if isinstance(node, dict) and last in node:
        del node[last]
    elif isinstance(node, dict) and last in STAND_INS:
        node[last] = copy.deepcopy(STAND_INS[last])
