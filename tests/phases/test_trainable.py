"""Patterns say which parameters a phase trains; one that stands for nothing is refused with what is near."""

import pytest
from pydantic import ValidationError

from hierlm.errors import UserError
from hierlm.phases.trainable import trained_in
from tests.phases.test_timeline import phase

NAMES = ["layers.0.tokens.weight", "layers.1.norm.weight", "layers.1.mix.weight", "layers.10.norm.weight"]


def trained(*patterns: str) -> list[str]:
    found = trained_in(NAMES, [phase(trainable=patterns)])
    return [name for name in NAMES if found[name] == (True,)]


def test_without_patterns_every_phase_trains_everything() -> None:
    assert set(trained_in(NAMES, [phase(), phase()]).values()) == {(True, True)}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"layers\.1", NAMES[1:3]),  # a whole name: not layers.10
        (r"layers\.\d+\.norm", [NAMES[1], NAMES[3]]),
        (r"layers\.1\.mix\.weight", [NAMES[2]]),
        (r".*norm.*", [NAMES[1], NAMES[3]]),
    ],
)
def test_a_pattern_stands_for_a_parameter_or_all_of_a_module(pattern: str, expected: list[str]) -> None:
    assert trained(pattern) == expected


def test_patterns_add_up_and_each_phase_has_its_own() -> None:
    found = trained_in(NAMES, [phase(), phase(trainable=(r"layers\.0", r"layers\.10"))])
    assert found == dict(zip(NAMES, [(True, True), (True, False), (True, False), (True, True)], strict=True))


def test_patterns_that_stand_for_nothing_are_all_refused_with_the_nearest_names() -> None:
    with pytest.raises(UserError) as caught:
        trained_in(NAMES, [phase(trainable=(r"layers\.1\.nrm", r"layers\.0")), phase(trainable=("heads",))])
    first, second = caught.value.problems
    assert first.startswith('phases.0.trainable.0: given "layers\\.1\\.nrm", which is the name of no parameter')
    assert "nearest: layers.1.norm" in first
    assert second.startswith('phases.1.trainable.0: given "heads"')


def test_an_inherited_pattern_is_told_once() -> None:
    with pytest.raises(UserError) as caught:
        trained_in(NAMES, [phase(trainable=("heads",)), phase(trainable=("heads",))])
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(("patterns", "text"), [((), "at least 1"), (("(",), "is not a regular expression")])
def test_a_phase_that_trains_nothing_and_a_broken_pattern_are_refused(patterns: tuple[str, ...], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        phase(trainable=patterns)
