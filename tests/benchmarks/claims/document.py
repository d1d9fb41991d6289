"""CLAIMS.md from the exported results: table, findings, verdict and plot of each claim."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

from hierlm.report import formats
from tests.benchmarks.claims.declared import Arm, Claim
from tests.benchmarks.claims.findings import mean_and_deviation, verdict
from tests.benchmarks.claims.mends import mark
from tests.benchmarks.claims.results import FOLDER, Results, RunResult, read, results_file

DOCUMENT = FOLDER.parent / "CLAIMS.md"

_INTRODUCTION = """# The papers' claims, tried here

Written by `make claims` from the records in `claims_results/`; `python -m tests.benchmarks.claims --write` writes it
again without the runs. Numbers after ± are standard deviations over seeds in tables, standard errors of the difference
in sentences. A comparison counts as clear only when at least two runs a side do not overlap at all. A verdict is of
these runs at their size, not of the paper. Losses are of the same first rows of the valid split; times are wall times,
whatever else the machine did. A revision is the commit a claim ran in, with a plus where files differed from it;
commits of before 2026-11-27 were put in order later and have other names now.
"""

Cell = Callable[[Sequence[RunResult]], str]


def _mean(field: str, shown: Callable[[float], str]) -> Cell:
    return lambda runs: shown(fmean(getattr(run, field) for run in runs))


def _spread(field: str, shown: str) -> Cell:
    return lambda runs: mean_and_deviation([getattr(run, field) for run in runs], shown)


COLUMNS: dict[str, tuple[str, Cell]] = {
    "runs": ("runs", lambda runs: str(len(runs))),
    "parameters": ("parameters", _mean("num_parameters", formats.count)),
    "non_embedding": ("parameters besides embedding", _mean("num_non_embedding_parameters", formats.count)),
    "steps": ("steps", _mean("steps", formats.count)),
    "tokens": ("tokens", _mean("tokens", formats.count)),
    "flops": ("FLOPs", _mean("flops", formats.count)),
    "seconds": ("training time, s", _spread("train_seconds", ".0f")),
    "memory": ("peak memory", _mean("peak_bytes", formats.data_size)),
    "bits_per_byte": ("bits per byte", _spread("bits_per_byte", ".3f")),
    "perplexity": ("perplexity", _spread("perplexity", ".1f")),
    "loss": ("loss, nats", _spread("loss", ".3f")),
}
"""Of the tables."""


def write(claims: Sequence[Claim], *, to: Path = DOCUMENT) -> None:
    """The whole document; a claim without results says so."""
    to.write_text("\n".join([_INTRODUCTION, *(line for claim in claims for line in _section(claim))]) + "\n")


def plot_file(claim: Claim) -> Path:
    return FOLDER / f"{claim.name}.svg"


def one_line(claim: Claim, results: Results | None) -> str:
    """The verdict, or what is missing for one."""
    if results is None:
        return "not run yet"
    missing = results.missing(claim)
    if missing:
        return f"not finished: {len(missing)} of {len(claim.runs)} runs are missing, the first is {missing[0]}"
    return verdict(claim.judge(results))


def _section(claim: Claim) -> Iterator[str]:
    results = read(results_file(claim))
    yield f"## {claim.name} ({claim.paper})\n"
    yield f"> {claim.says}\n"
    yield f"**Verdict: {one_line(claim, results)}.**\n"
    if results is not None and (marked := mark(results)) is not None:
        yield f"{marked}\n"
    yield f"{claim.protocol}\n"
    if results is not None:
        yield from table(claim, results)
        yield ""
        if not results.missing(claim):
            yield from (f"- {finding.text}" for finding in claim.judge(results))
            yield f"\n![{claim.figure_title}]({plot_file(claim).relative_to(DOCUMENT.parent)})\n"
        yield f"Ran on {results.machine}; one thread a run; revision {results.revision}."
    yield f"\nWhat they cannot say: {claim.limits}\n"
    yield f"Again: `make claim-{claim.name}`. Data: {claim.corpus.name} ({claim.corpus.licence}).\n"


def table(claim: Claim, results: Results) -> Iterator[str]:
    """One row an arm that has runs."""
    titles = [COLUMNS[key][0] for key in claim.columns]
    yield "| | " + " | ".join(titles) + " |"
    yield "|---" * (len(titles) + 1) + "|"
    yield from (_row(arm, claim, runs) for arm in claim.arms if (runs := results.of(arm.name)))


def _row(arm: Arm, claim: Claim, runs: Sequence[RunResult]) -> str:
    return f"| {arm.title} | " + " | ".join(COLUMNS[key][1](runs) for key in claim.columns) + " |"
