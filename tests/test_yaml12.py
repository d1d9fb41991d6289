"""YAML by the core schema of version 1.2, in and out."""

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hierlm import yaml12


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10), ("-07", -7), ("0o17", 15), ("0x1F", 31), ("1_000", "1_000"), ("1:30", "1:30"), ("0b11", "0b11"),
        ("1e-4", 1e-4), ("1E3", 1000.0), ("1.", 1.0), (".5", 0.5), ("+.5e2", 50.0), ("1.0e-4", 1e-4),
        ("-1e+3", -1000.0),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("y", "y"), ("true", True), ("FALSE", False),
        ("~", None), ("", None), ("Null", None), ("2026-01-02", "2026-01-02"), ("0o18", "0o18"), ("1.2.3", "1.2.3"),
        ("-.inf", -math.inf), ("=", "="), ("'010'", "010"), ("e5", "e5"), ("1e5x", "1e5x"), ("-", "-"), (".", "."),
    ],
)  # fmt: skip
def test_a_scalar_is_what_version_1_2_says(text: str, value: object) -> None:
    if text != "-":
        (read,) = yaml12.load(f"[{text}]") if text else [yaml12.load("a:")["a"]]
        assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        "!!int 1_0",
        "!!bool yes",
        "{a: 1, a: 2}",
        "&a [*a]",
        "!!python/object:os.system x",
        "!!timestamp x",
        "!!timestamp 2026-01-02",
        "!!binary eA==",
        "!!set {a, b}",
        "[" * 5000,
        "{[a]: 1}",
        "a: b: c",
    ],
)
def test_what_means_nothing_is_an_error_of_yaml(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        yaml12.load(text)


def test_a_few_lines_do_not_fill_the_memory() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    with pytest.raises(yaml.YAMLError, match="aliases written out"):
        yaml12.load("\n".join(lines))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
    | st.from_regex(r"\A[-+0-9.:_eExob~nyt]{1,8}\Z")
)
DOCUMENTS = st.dictionaries(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
    st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab01e.", max_size=4), inner)
    ),
    max_size=4,
)


@given(DOCUMENTS)
def test_what_is_written_is_read_back_by_either_version(document: dict[str, Any]) -> None:
    text = yaml12.dump(document)
    assert yaml12.load(text) == document
    assert yaml.safe_load(text) == document
