"""The data position of a checkpoint survives anything but other data."""

import pytest

from data_pipeline.errors import DataError
from data_pipeline.read.cursor import Cursor

CURSOR = Cursor(seed=1, data_pass=2, first_sample=10**12, fingerprints=("a" * 64, "b" * 64))


def test_a_cursor_comes_back_from_json_unchanged():
    assert Cursor.model_validate_json(CURSOR.model_dump_json()) == CURSOR


def test_the_same_data_may_lie_elsewhere():
    CURSOR.require_same_data(CURSOR.fingerprints, paths=["moved/one", "https://host/two"])


def test_changed_data_is_refused_by_name():
    with pytest.raises(DataError, match="two: the dataset changed") as error:
        CURSOR.require_same_data(("a" * 64, "c" * 64), paths=["one", "two"])
    assert len(error.value.problems) == 1
    with pytest.raises(DataError, match="started on 2 datasets, now there are 1"):
        CURSOR.require_same_data(("a" * 64,), paths=["one"])


def test_a_cursor_that_does_not_say_was_dealt_by_place():
    old = CURSOR.model_dump()
    del old["dealing"]
    assert Cursor.model_validate(old).dealing == "place"
