"""Columns are those of the objectives that are known when they are asked for."""

from types import SimpleNamespace
from typing import Any

import pytest

from hierlm import objectives
from hierlm.report.columns import all_columns, column_of


def test_a_headline_that_is_taken_up_later_has_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [column.key for column in all_columns()]
    known, loaded = objectives.names(), objectives.objective
    mine = SimpleNamespace(HEADLINE="hit_rate", LOWER_IS_BETTER=False)

    def objective(name: str) -> Any:
        return mine if name == "mine" else loaded(name)

    monkeypatch.setattr(objectives, "names", lambda: [*known, "mine"])
    monkeypatch.setattr(objectives, "objective", objective)
    assert [column.key for column in all_columns()] == [*before, "hit_rate", "test_hit_rate"]
    assert column_of("hit_rate").better == "high"
