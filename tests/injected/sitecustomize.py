"""Python imports this at its start when its folder is on PYTHONPATH: faults of training steps, asked for by tests.

HIERLM_TEST_CRASH_AT=N     the N-th step of every attempt raises
HIERLM_TEST_BRAKE=FILE     while the file is there, every step takes at least a quarter of a second
HIERLM_TEST_HALT=FILE      while the file is there, no step begins
HIERLM_CHAOS_PLAN=FILE     once its second word is `nan`, one process works with NaN from its next step on
"""

import importlib.util
import os
import sys
import time
from pathlib import Path
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
        if is_to_be_poisoned():
            from torch.nn.modules.module import register_module_forward_hook

            register_module_forward_hook(poisoned)
        return train_step(*arguments, **named)

    return faulty


def is_to_be_poisoned() -> bool:
    """Whether the plan asks for it and no other process has it."""
    plan = os.environ.get("HIERLM_CHAOS_PLAN", "")
    try:
        name, kind, *_ = Path(plan).read_text(encoding="ascii").split()
        if kind != "nan":
            return False
        with Path(f"{plan}.{name}.0").open("x", encoding="ascii") as claim:
            claim.write(f"{os.getpid()} nan -\n")
    except (OSError, ValueError):
        return False
    return True


def poisoned(module: Any, given: Any, made: Any) -> Any:
    return made * float("nan") if hasattr(made, "is_floating_point") and made.is_floating_point() else made


sys.meta_path.insert(0, EngineWithFaults())  # type: ignore[arg-type]
