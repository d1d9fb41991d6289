"""The one way out for JSON that others read: standard JSON, in which there is neither NaN nor infinity.

What Python writes for them by default no other reader takes. A number that is not finite becomes null.
"""

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(document: object, **options: Any) -> str:
    """As `json.dumps`; `options` are passed on to it."""
    return json.dumps(_finite(document), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
