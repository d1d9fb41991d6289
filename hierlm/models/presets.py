"""Names for sets of values that a `model:` part leaves unwritten. Torch-free.

A preset gives other defaults: a field that is written wins, and one that an architecture does not have is left out.
What it gave stands in the resolved config, so a run does not change when a preset does.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

Preset = Literal["modern"]

PRESETS: dict[str, dict[str, Any]] = {
    # what Llama 3 (2407.21783), OLMo 2 (2501.00656) and Qwen 3 (2505.09388) have in common; where they differ, what no
    # layout hinders: query-key norms of each head
    "modern": {
        "norm": "rms",
        "norm_epsilon": 1e-6,
        "block_order": "pre",
        "pre_norm": True,
        "feed_forward": "swiglu",
        "ffn_ratio": 8 / 3,
        "ffn_multiple_of": 64,
        "biases": False,
        "qk_norm": "head",
        "positions": "rotary",
        "rotary_base": 500_000.0,
        "z_loss": 1e-5,
    },
}


def unless_preset(field: str, default: Any, **kwargs: Any) -> Any:
    """A field whose default is that of the preset, where it has one; `preset` stands before it."""
    return Field(default_factory=lambda data: preset_value(data, field, default), **kwargs)


def preset_value(data: Mapping[str, Any], field: str, default: Any) -> Any:
    """What the preset of the fields read so far says of another."""
    return PRESETS.get(data.get("preset") or "", {}).get(field, default)
