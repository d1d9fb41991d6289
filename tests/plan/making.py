"""Settings of small models for the tests of this room."""

from typing import Any

from hierlm.config.load import load_config
from hierlm.config.run_config import RunConfig
from hierlm.plan.estimate import Estimator
from hierlm.plan.layer_memory import Setting
from tests.plan.measuring import CPU

BASE = ("data.path=unused", "phases.0.sequence_length=48", "phases.0.global_batch_size=8")


def config(arch: str, *overrides: str) -> RunConfig[Any]:
    """The architecture's tiny config, made smaller."""
    return load_config(f"configs/tiny/{arch}.yaml", [*BASE, *overrides])


def setting(arch: str, *overrides: str, **changes: Any) -> Setting:
    """fp32 on a CPU unless changed."""
    run = config(arch, *overrides)
    defaults = {"rows": 2, "tp_degree": 1, "recompute": "none", "bf16": False, "on_gpu": False}
    return Setting(model=run.model, phase=run.phases[0], **{**defaults, **changes})


def estimator(arch: str, *overrides: str, **device: Any) -> Estimator:
    """On a made-up device."""
    from dataclasses import replace

    return Estimator(config(arch, *overrides), replace(CPU, **device))
