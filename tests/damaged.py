"""Ways in which the bytes of a file go wrong: torn, flipped, overwritten; and JSON that says what it should not."""

import json
from typing import Any

from hypothesis import strategies as st

JUNK: list[Any] = [None, True, -1, 0, 1e308, 10**400, "", "x", "12", "\udcff", [], [1, {"a": []}], {}, {"a": {"b": []}}]
"""In the place of a value."""


@st.composite
def damaged_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """One of the ways, at a place drawn."""
    kind = draw(st.sampled_from(["torn", "flipped", "zeros", "inserted", "noise", "deep", "empty"]))
    start = draw(st.integers(0, max(len(good) - 1, 0)))
    if kind == "torn":
        return good[:start]
    if kind == "flipped":
        return good[:start] + bytes([good[start] ^ draw(st.integers(1, 255))]) + good[start + 1 :] if good else b"\xff"
    if kind == "zeros":
        return good[:start] + bytes(draw(st.integers(1, 64))) + good[start + 64 :]
    if kind == "inserted":
        return good[:start] + draw(st.binary(min_size=1, max_size=8)) + good[start:]
    if kind == "deep":
        return good[:start] + b"[" * 5000 + b"\n" + good[start:]
    return draw(st.binary(max_size=40)) if kind == "noise" else b""


@st.composite
def damaged_json(draw: st.DrawFn, good: bytes) -> bytes:
    """Whole JSON, in one place another value, or none: one line of a file of lines, or the one document."""
    lines = good.split(b"\n")
    is_lines = len(lines) > 2 and lines[0].endswith(b"}")
    place = draw(st.integers(0, len(lines) - 2)) if is_lines else 0
    document = json.loads(lines[place] if is_lines else good)
    changed = json.dumps(_changed(draw, document)).encode()
    return b"\n".join([*lines[:place], changed, *lines[place + 1 :]]) if is_lines else changed


def _changed(draw: st.DrawFn, node: Any) -> Any:
    """`node` with one value in it, or the whole, replaced or left out."""
    keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    if not keys or draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(JUNK))
    key = draw(st.sampled_from(keys))
    inner = _changed(draw, node[key])
    is_gone = draw(st.integers(0, 5)) == 0
    if isinstance(node, dict):
        return {name: inner if name == key else value for name, value in node.items() if name != key or not is_gone}
    return [inner if index == key else value for index, value in enumerate(node) if index != key or not is_gone]


def damaged(good: bytes) -> st.SearchStrategy[bytes]:
    """Any of these ways, of a file of JSON."""
    return st.one_of(damaged_bytes(good), damaged_json(good))
