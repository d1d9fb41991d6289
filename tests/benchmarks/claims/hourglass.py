"""Hourglass gives a better loss than a transformer at the same compute (2110.13711)."""

from statistics import fmean

from tests.benchmarks.claims.corpora import WIKIPEDIA
from tests.benchmarks.claims.declared import Arm, Claim
from tests.benchmarks.claims.findings import Finding, Vote, contrast, percent
from tests.benchmarks.claims.plot import Line, line_plot
from tests.benchmarks.claims.results import Results, RunResult

VANILLA, EQUAL_FLOPS, EQUAL_TIME = "hourglass-8at1", "hourglass-2at1_4at3_2at1", "hourglass-2at1_4at3_2at1-equal-time"
MOST_MORE_TIME = 0.05
"""A run that took longer than this above the baseline's time had not the same compute."""

ARMS = (
    Arm(VANILLA, "transformer 8@1", "hourglass/scaled-8at1.yaml"),
    Arm(EQUAL_FLOPS, "Hourglass 2@1 4@3 2@1, equal FLOPs", "hourglass/scaled-2at1_4at3_2at1.yaml"),
    Arm(
        EQUAL_TIME,
        "Hourglass 2@1 4@3 2@1, equal time",
        "hourglass/scaled-2at1_4at3_2at1.yaml",
        # a step of the transformer took 1.30 times as long on one thread of the machine this was first set on
        overrides=("phases.0.duration.steps=519",),
    ),
)


def judge(results: Results) -> list[Finding]:
    """One vote at equal FLOPs, one at equal time."""
    vanilla, flops, time = (results.of(arm) for arm in (VANILLA, EQUAL_FLOPS, EQUAL_TIME))
    at_flops, at_time = (contrast(_bits(side), _bits(vanilla)) for side in (flops, time))
    work, took = _ratio(flops, vanilla, "flops"), _ratio(time, vanilla, "train_seconds")
    more = _ratio(flops, vanilla, "train_seconds")
    vote: Vote = at_time.vote if took <= 1 + MOST_MORE_TIME or at_time.vote == "no" else "unclear"
    return [
        Finding(
            f"At {work:.3f} times the FLOPs ({percent(more)} time) the Hourglass is {at_flops.text('bits per byte')}.",
            at_flops.vote,
        ),
        Finding(
            f"At {took:.3f} times the measured training time the Hourglass is {at_time.text('bits per byte')}.", vote
        ),
    ]


def figure(results: Results) -> str:
    """Bits per byte of the evaluations over the seconds of training."""
    lines = []
    for index, arm in enumerate(ARMS):
        for run in results.of(arm.name):
            bits = run.bits_per_byte / run.loss  # bytes per token and the logarithm's base
            y = [loss * bits for loss in run.evaluations.loss]
            lines.append(Line(arm.title, index, run.evaluations.seconds, y))
    return line_plot(lines, x="training time (s, one thread)", y="bits per byte, valid")


def _bits(runs: list[RunResult]) -> list[float]:
    return [run.bits_per_byte for run in runs]


def _ratio(ours: list[RunResult], theirs: list[RunResult], field: str) -> float:
    return fmean(getattr(run, field) for run in ours) / fmean(getattr(run, field) for run in theirs)


CLAIM = Claim(
    name="hourglass",
    paper="2110.13711",
    says="Hourglass gives a better loss than a transformer at the same compute.",
    protocol="The pair 8@1 and 2@1 4@3 2@1 of Table 1 at width 128, T = 1024 bytes, plain English Wikipedia, three "
    "seeds; the Hourglass once with as many steps as make its FLOPs equal, once with as many as make its measured "
    "training time equal. The learning rate falls to zero at the end of each run.",
    corpus=WIKIPEDIA,
    arms=ARMS,
    columns=("runs", "parameters", "steps", "tokens", "flops", "seconds", "memory", "bits_per_byte"),
    judge=judge,
    figure=figure,
    figure_title="bits per byte over training time, every seed",
    limits="About a million bytes a run at a sixteenth of the paper's width product: far from convergence, one pair, "
    "one learning rate for both, rotary instead of relative positions, a CPU's balance of attention and products.",
)
