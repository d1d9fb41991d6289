"""Regular expressions that stand for parameters of a model: for whole names of theirs, or of modules around them."""

import difflib
import re
from collections.abc import Sequence
from itertools import accumulate

NUM_NEAREST = 3


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern stands for the parameter of this name."""
    return any(re.fullmatch(pattern, place) for place in _places(name))


def without_match(pattern: str, names: Sequence[str]) -> str | None:
    """What is wrong with a pattern that stands for none of the parameters, and what comes near it; None: nothing."""
    if any(matches(pattern, name) for name in names):
        return None
    places = list(dict.fromkeys(place for name in names for place in _places(name)))
    return (
        f'given "{pattern}", which is the name of no parameter or module, '
        f"allowed: a regular expression for the whole name, nearest: {', '.join(_nearest(pattern, places))}"
    )


def _places(name: str) -> list[str]:
    """`a`, `a.b`, `a.b.c` for `a.b.c`: the modules around a parameter and itself."""
    return list(accumulate(name.split("."), "{}.{}".format))


def _nearest(pattern: str, places: Sequence[str]) -> list[str]:
    plain = pattern.replace("\\", "")
    return difflib.get_close_matches(plain, places, n=NUM_NEAREST, cutoff=0.0)
