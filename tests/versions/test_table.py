"""The page of versions says what was run, and the ranges that users install by say no more."""

from pathlib import Path

import pytest

from hierlm.parallel.seams.versions import TRIED
from tests.versions.environment import pairs
from tests.versions.table import Outcome, rows_of, write


def outcome(deepspeed: str, *, failed: int = 0) -> Outcome:
    versions = (deepspeed, "0.16.1", "2.13.0", "3.11.9")
    return Outcome(versions, date="2026-11-28", passed=40, failed=failed, skipped=1, minutes=7)


def test_a_row_takes_the_place_of_that_of_the_same_versions(tmp_path: Path) -> None:
    page = tmp_path / "versions.md"
    write([outcome("0.19.3"), outcome("0.19.8", failed=2)], choice=["tests/a.py"], page=page)
    write([outcome("0.19.8")], choice=["tests/a.py"], page=page)
    assert rows_of(page) == [outcome("0.19.3").cells, outcome("0.19.8").cells]
    assert "- `tests/a.py`" in page.read_text()


def test_both_ends_of_the_ranges_were_run_and_nothing_failed() -> None:
    rows = rows_of()
    for pair in pairs():
        (row,) = [row for row in rows if row[:2] == list(pair)]
        assert int(row[5]) > 30 and row[6] == "0"


@pytest.mark.parametrize(("distribution", "column"), [("deepspeed", 0), ("megatron-core", 1), ("torch", 2)])
def test_what_a_user_is_told_was_tried_is_on_the_page(distribution: str, column: int) -> None:
    ends = [pair[column] for pair in pairs()] if column < 2 else list(TRIED[distribution])
    assert list(dict.fromkeys(ends)) == list(TRIED[distribution])
    assert {row[column].partition("+")[0] for row in rows_of()} >= set(TRIED[distribution])
