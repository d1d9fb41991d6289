"""From numbers to sentences: comparisons over seeds, fits, and what they say of a claim. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

Vote = Literal["yes", "no", "unclear", "note"]
"""Whether a finding speaks for the claim; a note is only told."""


@dataclass(frozen=True)
class Finding:
    """One sentence with its numbers."""

    text: str
    vote: Vote


@dataclass(frozen=True)
class Contrast:
    """Ours minus theirs, of a number that is better when low."""

    difference: float
    standard_error: float | None  # Welch's; None with fewer than two runs on a side
    vote: Vote

    def text(self, unit: str) -> str:
        """`0.031 ± 0.004 bits per byte lower (every run of one below every run of the other)`."""
        error = "" if self.standard_error is None else f" ± {self.standard_error:.3f}"
        side = "lower" if self.difference < 0 else "higher"
        separated = {
            "yes": "every run below every other",
            "no": "every run above every other",
            "unclear": "the runs overlap, or are too few to tell",
        }
        return f"{abs(self.difference):.3f}{error} {unit} {side} ({separated[self.vote]})"


def contrast(ours: Sequence[float], theirs: Sequence[float]) -> Contrast:
    """Clear only when at least two runs a side do not overlap at all: no assumption about their distribution."""
    enough = len(ours) > 1 and len(theirs) > 1
    vote: Vote = "unclear"
    if enough and max(ours) < min(theirs):
        vote = "yes"
    elif enough and min(ours) > max(theirs):
        vote = "no"
    error = math.hypot(*(stdev(side) / math.sqrt(len(side)) for side in (ours, theirs))) if enough else None
    return Contrast(fmean(ours) - fmean(theirs), error, vote)


def verdict(findings: Sequence[Finding]) -> str:
    """In a word or four."""
    votes = {finding.vote for finding in findings} - {"note"}
    if votes == {"yes"}:
        return "supported"
    if "yes" in votes:
        return "supported in part"
    return "not supported" if "no" in votes else "undecided"


def power_law(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """(c, alpha) of y = c x^-alpha by least squares of the logarithms."""
    xs, ys = [math.log(v) for v in x], [math.log(v) for v in y]
    mean_x, mean_y = fmean(xs), fmean(ys)
    slope = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(xs, ys, strict=True))
    slope /= math.fsum((a - mean_x) ** 2 for a in xs)
    return math.exp(mean_y - slope * mean_x), -slope


def tokens_for(loss: float, *, short: tuple[float, float], long: tuple[float, float]) -> float:
    """Tokens a model needs to come to `loss`, from (tokens, final loss) of two trainings of its own.

    Between the two along the power law through both; 0 when the short one is as good already, infinite when even the
    long one is not.
    """
    if short[1] <= loss:
        return 0.0
    if long[1] > loss:
        return math.inf
    c, alpha = power_law([short[0], long[0]], [short[1], long[1]])
    return (c / loss) ** (1 / alpha)


def mean_and_deviation(values: Sequence[float], shown: str) -> str:
    """`2.713 ± 0.006`; without the deviation where there is one value."""
    deviation = f" ± {stdev(values):{shown}}" if len(values) > 1 else ""
    return f"{fmean(values):{shown}}{deviation}"


def percent(ratio: float) -> str:
    """A ratio as how much more or less: 0.77 -> `-23 %`."""
    return f"{(ratio - 1) * 100:+.0f} %"
