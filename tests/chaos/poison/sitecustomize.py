"""Python imports this at its start when its folder is on PYTHONPATH: numbers that are none, when the plan says so.

HIERLM_CHAOS_PLAN names a file; once its second word is `nan`, one process works with NaN from its next step on.
"""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ENGINE = "hierlm.parallel.engine"


class EngineWithPoison:
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
            module.Engine.train_step = with_poison(module.Engine.train_step)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def with_poison(train_step: Any) -> Any:
    def step(*arguments: Any, **named: Any) -> Any:
        if is_due():
            from torch.nn.modules.module import register_module_forward_hook

            register_module_forward_hook(poisoned)
        return train_step(*arguments, **named)

    return step


def is_due() -> bool:
    """Whether the plan asks for it and no other process has it."""
    plan = Path(os.environ["HIERLM_CHAOS_PLAN"])
    try:
        name, kind, *_ = plan.read_text(encoding="ascii").split()
        if kind != "nan":
            return False
        with Path(f"{plan}.{name}.0").open("x", encoding="ascii") as claim:
            claim.write(f"{os.getpid()} nan -\n")
    except (OSError, ValueError):
        return False
    return True


def poisoned(module: Any, given: Any, made: Any) -> Any:
    return made * float("nan") if hasattr(made, "is_floating_point") and made.is_floating_point() else made


sys.meta_path.insert(0, EngineWithPoison())  # type: ignore[arg-type]
