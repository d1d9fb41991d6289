"""Numbers as people read them."""

import pytest

from hierlm.report import formats


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (999.6, "1.00k"), (1234567, "1.23M"), (83_000, "83.0k"), (7.5e16, "75.0P"), (0.5, "0.50")],
)
def test_counts_have_three_digits_and_a_unit(value: float, text: str) -> None:
    assert formats.count(value) == text


@pytest.mark.parametrize(("value", "text"), [(512, "512 B"), (2**30, "1.00 GiB"), (1536 * 2**20, "1.50 GiB")])
def test_bytes_in_powers_of_two(value: float, text: str) -> None:
    assert formats.data_size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2s"), (59.99, "1m00s"), (65.2, "1m05s"), (3599.9, "1h00m"), (3723, "1h02m"), (200_000, "2d07h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


def test_what_is_no_number_is_said_as_such() -> None:
    assert formats.count(float("nan")) == "nan"
    assert formats.count(float("inf")) == "inf"
