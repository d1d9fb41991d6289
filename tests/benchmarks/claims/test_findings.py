"""Sentences follow from numbers: on made-up ones."""

import math

import pytest

from tests.benchmarks.claims.findings import Finding, contrast, power_law, tokens_for, verdict


def test_a_contrast_is_clear_only_when_no_run_overlaps():
    assert contrast([1.0, 1.1], [1.2, 1.3]).vote == "yes"
    assert contrast([1.2, 1.3], [1.0, 1.1]).vote == "no"
    assert contrast([1.0, 1.25], [1.2, 1.3]).vote == "unclear"


def test_one_run_a_side_tells_nothing():
    found = contrast([1.0], [2.0, 2.1])
    assert found.vote == "unclear" and found.standard_error is None


def test_the_error_of_a_contrast_is_that_of_a_difference_of_means():
    found = contrast([1.0, 1.2], [2.0, 2.4])
    assert found.difference == pytest.approx(-1.1)
    assert found.standard_error == pytest.approx(math.sqrt(0.02 / 2 + 0.08 / 2))


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        (["yes", "yes", "note"], "supported"),
        (["yes", "unclear"], "supported in part"),
        (["yes", "no"], "supported in part"),
        (["no", "unclear"], "not supported"),
        (["unclear", "note"], "undecided"),
        (["note"], "undecided"),
    ],
)
def test_the_verdict_counts_votes_and_not_notes(votes, said):
    assert verdict([Finding("", vote) for vote in votes]) == said


def test_a_power_law_is_found_again():
    c, alpha = power_law([1e4, 1e5, 1e6], [7 * n**-0.07 for n in (1e4, 1e5, 1e6)])
    assert c == pytest.approx(7) and alpha == pytest.approx(0.07)


def test_tokens_for_a_loss_lie_between_two_trainings_or_outside():
    short, long = (1e6, 4.0), (4e6, 3.0)
    assert tokens_for(4.1, short=short, long=long) == 0
    assert tokens_for(2.9, short=short, long=long) == math.inf
    assert tokens_for(math.sqrt(12), short=short, long=long) == pytest.approx(2e6)
