"""Python imports this at its start when its folder is on PYTHONPATH: faults of training steps, asked for by tests.

HIERLM_TEST_CRASH_AT=N     the N-th step of every attempt raises
HIERLM_TEST_BRAKE=FILE     while the file is there, every step takes at least a quarter of a second
HIERLM_TEST_HALT=FILE      while the file is there, no step begins
"""

import importlib.util
import os
import sys
import time
from types import ModuleType
from typing import Any

ENGINE = "hierlm.parallel.engine"
SLOW_STEP_SECONDS = 0.25


class EngineWithFaults:
    """An import hook for one module."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != ENGINE:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            module.Engine.train_step = with_faults(module.Engine.train_step)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def with_faults(train_step: Any) -> Any:
    crash_at, brake = int(os.environ.get("HIERLM_TEST_CRASH_AT", "0")), os.environ.get("HIERLM_TEST_BRAKE", "")
    halt, steps = os.environ.get("HIERLM_TEST_HALT", ""), 0

    def faulty(*arguments: Any, **named: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == crash_at:
            raise RuntimeError("injected by the test")
        while os.path.exists(halt):
            time.sleep(0.02)
        if os.path.exists(brake):
            time.sleep(SLOW_STEP_SECONDS)
        return train_step(*arguments, **named)

    return faulty


sys.meta_path.insert(0, EngineWithFaults())  # type: ignore[arg-type]
