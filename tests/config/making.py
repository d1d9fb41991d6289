"""Configs for the tests of this room and of the launcher."""

from pathlib import Path
from typing import Any

import yaml

from hierlm.config.load import load_config
from hierlm.config.run_config import RunConfig


def mapping() -> dict[str, Any]:
    """A valid run of two phases, as YAML has it."""
    return {
        "name": "run",
        "model": {"arch": "transformer", "num_layers": 2, "hidden_dim": 32, "num_heads": 4, "ffn_dim": 64},
        "data": {"path": "data/some"},
        "phases": [
            {
                "name": "first",
                "duration": {"steps": 10},
                "sequence_length": 64,
                "global_batch_size": 8,
                "learning_rate": {"peak": 1e-3, "warmup": {"steps": 2}, "final": 1e-4},
            },
            {"name": "second", "duration": {"tokens": 5000}, "sequence_length": 128},
        ],
    }


def write(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """`config.yaml` of `mapping()` with top-level keys replaced."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**mapping(), **(changes or {})}))
    return path


def config(folder: Path, *overrides: str) -> RunConfig[Any]:
    """The loaded config of `mapping()`."""
    return load_config(write(folder), overrides)
