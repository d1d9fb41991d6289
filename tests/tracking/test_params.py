"""Flat parameters."""

from hierlm.tracking.params import flatten


def test_nested_values_become_dotted_keys_and_yaml_words() -> None:
    nested = {"a": {"b": [{"c": 1.5}, {"c": None}]}, "on": True, "none": [], "empty": {}}
    assert flatten(nested) == {"a.b.0.c": "1.5", "a.b.1.c": "null", "on": "true", "none": "[]", "empty": "{}"}


def test_flat_input_stays_as_it_is() -> None:
    assert flatten({"model.arch": "lmu"}) == {"model.arch": "lmu"}


def test_nothing_has_no_parameters() -> None:
    assert flatten({}) == {}
