"""Each claim's verdict follows from its numbers: made-up ones that support it, speak against it, or do neither."""

import pytest

from tests.benchmarks.claims import hourglass, lmu, multi_scale, skip_cross_head
from tests.benchmarks.claims.catalogue import CLAIMS
from tests.benchmarks.claims.findings import verdict
from tests.benchmarks.claims.making import made_up

EQUAL_FLOPS, EQUAL_TIME = hourglass.EQUAL_FLOPS, hourglass.EQUAL_TIME
FULL, BASELINE = skip_cross_head.FULL.name, skip_cross_head.BASELINE.name


def said(claim, losses, **more):
    return verdict(claim.judge(made_up(claim, losses, **more)))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_equal_numbers_never_support_a_claim(claim):
    assert said(claim, {}) in ("undecided", "not supported")


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ({EQUAL_FLOPS: 1.9, EQUAL_TIME: 1.9}, "supported"),
        ({EQUAL_FLOPS: 1.9}, "supported in part"),
        ({EQUAL_FLOPS: 2.1, EQUAL_TIME: 2.1}, "not supported"),
    ],
)
def test_hourglass_must_win_at_equal_flops_and_at_equal_time(losses, verdict):
    assert said(hourglass.CLAIM, losses) == verdict


def test_a_win_in_more_time_is_none():
    losses = {EQUAL_FLOPS: 2.1, EQUAL_TIME: 1.9}
    assert said(hourglass.CLAIM, losses) == "supported in part"
    assert said(hourglass.CLAIM, losses, train_seconds={EQUAL_TIME: 110.0}) == "not supported"


def test_hierarchical_models_must_need_less_memory_and_be_better():
    better, smaller = {"multi-scale-top-down-30": 1.9}, {"peak_bytes": {"memory-top-down-30": 1 << 19}}
    assert said(multi_scale.CLAIM, better, **smaller) == "supported in part"
    assert said(multi_scale.CLAIM, better) == "not supported"
    all_three = dict.fromkeys((f"multi-scale-{name}" for name in multi_scale.HIERARCHICAL), 1.9)
    all_smaller = {"peak_bytes": dict.fromkeys((f"memory-{name}" for name in multi_scale.HIERARCHICAL), 1 << 19)}
    assert said(multi_scale.CLAIM, all_three, **all_smaller) == "supported"
    other_smaller = {"peak_bytes": {"memory-bottom-up-30": 1 << 19}}
    assert said(multi_scale.CLAIM, better, **other_smaller) != "supported"


def test_the_full_recipe_must_beat_transformer_xl():
    assert said(skip_cross_head.CLAIM, {FULL: 1.9}) == "supported"
    assert said(skip_cross_head.CLAIM, {FULL: 2.1}) == "not supported"


def test_the_better_switch_point_is_named():
    findings = skip_cross_head.CLAIM.judge(made_up(skip_cross_head.CLAIM, {skip_cross_head.HALF.name: 1.5}))
    assert findings[-1].text.endswith("is that of `off at 50 %`.")


def test_lmu_must_need_fewer_tokens_and_gain_from_attention_at_every_size():
    lmu_wins = {f"lmu-{width}": 1.9 for width in lmu.WIDTHS}
    with_attention = {f"lmu-global-{width}": 1.8 for width in lmu.WIDTHS}
    assert said(lmu.CLAIM, lmu_wins | with_attention) == "supported"
    assert said(lmu.CLAIM, lmu_wins) == "supported in part"
    assert said(lmu.CLAIM, {"transformer-48": 1.0, "transformer-96": 1.0, "transformer-144": 1.0}) == "not supported"


def test_the_transformers_tokens_are_told_as_a_multiple():
    losses = {f"transformer-{width}": 2.2 for width in lmu.WIDTHS} | {f"transformer-{w}-long": 1.8 for w in lmu.WIDTHS}
    tokens = {"tokens": {f"transformer-{width}-long": 4000 for width in lmu.WIDTHS}}
    first = lmu.CLAIM.judge(made_up(lmu.CLAIM, losses, **tokens))[0].text
    assert "needs 1.9" in first and "times the LMU's tokens" in first


def test_a_transformer_that_never_gets_there_is_told_so():
    first = lmu.CLAIM.judge(made_up(lmu.CLAIM, {"lmu-48": 1.0}))[0].text
    assert "needs more than 4 times the LMU's tokens" in first
