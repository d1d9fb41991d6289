"""What we write as JSON every reader of JSON takes."""

import json
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierlm import strict_json
from launcher.verb import json_on_stdout

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
DOCUMENTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner), max_leaves=10
)


def refused(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


def plain(document: Any) -> Any:
    """What must come back: the same, with None for numbers that are not finite."""
    if isinstance(document, dict):
        return {key: plain(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [plain(value) for value in document]
    is_number = not isinstance(document, float) or abs(document) <= 1.8e308
    return document if is_number else None


@given(DOCUMENTS)
def test_numbers_that_are_not_finite_are_null_and_the_rest_comes_back(document: Any) -> None:
    assert json.loads(strict_json.dumps(document), parse_constant=refused) == plain(document)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_door_of_all_verbs_is_strict(enabled: bool, capfd: pytest.CaptureFixture[str]) -> None:
    with json_on_stdout(enabled) as print_document:
        print_document({"loss": float("nan"), "rows": ({"perplexity": float("inf")},)})
    assert json.loads(capfd.readouterr().out, parse_constant=refused) == {"loss": None, "rows": [{"perplexity": None}]}
