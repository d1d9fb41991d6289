"""Numbers as people read them."""

import math
from collections.abc import Mapping
from typing import Any

from hierlm import metric_names

_THOUSANDS = ("", "k", "M", "G", "T", "P", "E", "Z")


def count(value: float) -> str:
    """1234567 -> `1.23M`; under a thousand as it is. Also for FLOPs and tokens per second."""
    return _scaled(value, base=1000.0, units=_THOUSANDS)


def data_size(value: float) -> str:
    """Bytes -> `1.43 GiB`."""
    return _scaled(value, base=1024.0, units=(" B", " KiB", " MiB", " GiB", " TiB", " PiB"))


def duration(seconds: float) -> str:
    """3723.0 -> `1h02m`; 65.2 -> `1m05s`; 3.21 -> `3.2s`."""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400 * 2:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def share(value: float) -> str:
    """0.4132 -> `41.3%`."""
    return f"{100 * value:.1f}%"


def quality(value: float) -> str:
    """A loss or bits per byte: four digits after the point; a perplexity grows large, so fewer."""
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


_BITS = {metric_names.BITS_PER_DIMENSION: "bits/dim", metric_names.BITS_PER_BYTE: "bits/byte"}


def bits(record: Mapping[str, Any]) -> list[str]:
    """What a record says of its loss in bits, in the unit its data is judged by; nothing where it has none."""
    return [f"{title} {record[field]:.4f}" for field, title in _BITS.items() if field in record][:1]


def reported(record: Mapping[str, Any]) -> list[str]:
    """What is measured beside the loss: `loss/boundary 0.4312`, `boundary_rate 0.1875`, `accuracy 0.8125`."""
    return [f"{name} {value:.4g}" for name, value in metric_names.reported(record).items()]


def sources(record: Mapping[str, Any]) -> str:
    """What the numbers of an evaluation are the weighted mean of: `mean of 0.7 wiki 3.1024, 0.3 code 2.2310`."""
    key = next((key for key in _BITS if key in record), metric_names.LOSS)
    each = (f"{s[metric_names.WEIGHT]:.3g} {name} {s[key]:.4f}" for name, s in record[metric_names.SOURCES].items())
    return f"mean of {', '.join(each)}"


def _scaled(value: float, *, base: float, units: tuple[str, ...]) -> str:
    """Three significant digits and the unit that leaves fewer than four before the point."""
    if not math.isfinite(value):
        return str(value)
    power = 0
    while abs(value) >= base * 0.9995 and power < len(units) - 1:
        value, power = value / base, power + 1
    if power == 0 and value == int(value):
        return f"{value:.0f}{units[0]}"
    digits = max(0, 2 - int(math.log10(abs(value)))) if abs(value) >= 1 else 2
    return f"{value:.{digits}f}{units[power]}"
