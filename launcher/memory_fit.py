"""Does a run fit the memory of a site's devices: asked of `hierlm plan`, in its own process for it imports torch."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hierlm.config.run_config import RunConfig
from hierlm.models.config import ModelConfig

MOST_SECONDS = 300.0
_SHOWN = 3


def memory_problems(config: RunConfig[ModelConfig], *, device: str) -> list[str]:
    """One line when the run needs more than a device has, with the nearest layouts that fit."""
    print(f"checking whether {config.name} fits a {device} (some seconds)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")  # JSON is YAML
        command = [sys.executable, "-m", "launcher", "plan", str(path), "--device", device, "--json"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=MOST_SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"warning: the memory of {config.name} could not be planned ({error})", file=sys.stderr)
            return []
    plan = json.loads(done.stdout)
    return [] if plan["fits"] else [_refusal(plan, device=device)]


def _refusal(plan: dict[str, Any], *, device: str) -> str:
    layouts = (plan["alternatives"] or {}).get("layouts", [])[:_SHOWN]
    changes = [" ".join(f"{key}={value}" for key, value in layout["changes"].items()) for layout in layouts]
    hint = f"; these fit, fastest first: {' | '.join(changes)}" if changes else "; no layout near it fits"
    needed = plan["peak_bytes"] / 2**30
    return f"parallel: a process needs {needed:,.1f} GiB, more than one {device} has for tensors{hint}"
