"""What is kept of a claim's runs: enough to write its tables, verdict and plot again without them."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, NonNegativeInt

from hierlm.bits import perplexity
from hierlm.errors import UserError
from hierlm.report.run_record import RunRecord, load_run
from hierlm.report.series import Curve, evaluation_curve, thinned, training_curve
from hierlm.run_dir import RunDir
from hierlm.strict import Strict
from tests.benchmarks.__main__ import machine
from tests.benchmarks.claims.declared import Claim, Run
from tests.conftest import ROOT

FOLDER = Path(__file__).parents[1] / "claims_results"
_CURVE_POINTS = 60
_DIGITS = 6


class CurveResult(Strict):
    """A loss in nats per token over training; equally long lists."""

    tokens: tuple[float, ...]
    seconds: tuple[float, ...]  # of training steps; evaluation and saving left out
    loss: tuple[float, ...]


class RunResult(Strict):
    """One finished run; losses are those of its last evaluation of the valid split."""

    name: str
    arm: str
    seed: NonNegativeInt
    arch: str
    num_parameters: NonNegativeInt
    num_non_embedding_parameters: NonNegativeInt
    steps: NonNegativeInt
    tokens: NonNegativeInt
    flops_per_token: float
    train_seconds: float
    peak_bytes: NonNegativeInt
    loss: float
    perplexity: float
    bits_per_byte: float
    evaluations: CurveResult
    training: CurveResult

    @property
    def flops(self) -> float:
        """Of the whole training, forward and backward."""
        return self.flops_per_token * self.tokens


class Results(Strict):
    """All finished runs of a claim, and where they ran."""

    claim: str
    machine: str  # and the date
    revision: str
    runs: tuple[RunResult, ...]
    measured: dict[str, dict[str, int]] = Field(default_factory=dict)  # by `Claim.measure`: what no run records

    def of(self, arm: str) -> list[RunResult]:
        """By seed; empty when none has been run."""
        return sorted((run for run in self.runs if run.arm == arm), key=lambda run: run.seed)

    def missing(self, claim: Claim) -> list[str]:
        """Declared runs that are not here."""
        have = {run.name for run in self.runs}
        return [run.name for run in claim.runs if run.name not in have]


def gather(claim: Claim) -> Results:
    """Read the run directories of all finished runs; UserError when there is none."""
    found = [(run, path) for run in claim.runs if (path := run_path(run)).joinpath(RunDir(path).finished.name).exists()]
    if not found:
        raise UserError(f"{claim.name}: no run has finished, the first would be {run_path(claim.runs[0])}")
    runs = tuple(run_result(run, load_run(path)) for run, path in found)
    return Results(claim=claim.name, machine=machine(), revision=_revision(), runs=runs)


def run_path(run: Run) -> Path:
    """The run's directory."""
    config = run.load()
    return ROOT / config.run_root / config.name


def run_result(run: Run, record: RunRecord) -> RunResult:
    """The numbers of a finished run; AssertionError when it has no summary."""
    summary = record.summary
    assert summary is not None and summary.valid is not None and summary.flops_per_token is not None, record.source
    seconds = training_curve(record, "loss").x["seconds"]
    return RunResult(
        name=run.name,
        arm=run.arm,
        seed=run.seed,
        arch=summary.arch,
        num_parameters=summary.num_parameters,
        num_non_embedding_parameters=summary.num_non_embedding_parameters,
        steps=summary.steps,
        tokens=summary.tokens_seen,
        flops_per_token=summary.flops_per_token,
        train_seconds=_rounded(seconds)[-1],
        peak_bytes=summary.peak_device_memory_bytes or 0,
        loss=summary.valid.loss,
        perplexity=perplexity(summary.valid.loss),
        bits_per_byte=summary.valid.bits_per_byte or 0.0,
        evaluations=_curve(evaluation_curve(record, "loss")),
        training=_curve(thinned(training_curve(record, "loss"), most_points=_CURVE_POINTS)),
    )


def results_file(claim: Claim) -> Path:
    return FOLDER / f"{claim.name}.json"


def export(results: Results, path: Path) -> None:
    """Write the results, one run a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = results.model_dump(mode="json")
    runs = ",\n".join(json.dumps(run) for run in document.pop("runs"))
    head = json.dumps(document, indent=1).removesuffix("\n}")
    path.write_text(f'{head},\n "runs": [\n{runs}\n]}}\n')


def read(path: Path) -> Results | None:
    """Results written by `export`; None where there are none."""
    if not path.exists():
        return None
    try:
        return Results.model_validate_json(path.read_text())
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path}: not results of this version ({first}); remove it and gather again") from error


def _curve(curve: Curve) -> CurveResult:
    return CurveResult(tokens=_rounded(curve.x["tokens"]), seconds=_rounded(curve.x["seconds"]), loss=_rounded(curve.y))


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)


def _revision() -> str:
    """The commit, with a plus where files differ from it; `unknown` outside a repository."""
    words = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
