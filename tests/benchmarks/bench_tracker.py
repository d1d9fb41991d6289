"""Whether a step takes longer while the tracking server is dead, or hangs, than while it answers.

    python -m tests.benchmarks.bench_tracker

One run of `hierlm train` that records every step, beside a real `mlflow server` that is killed, frozen and brought back
in turn. The periods alternate, so that other work on the machine meets all of them alike; medians per period, and the
median over rounds counts. Afterwards every step must be in MLflow once.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from mlflow.tracking import MlflowClient

from tests.conftest import ROOT, hierlm, hierlm_path, prepare_tiny_dataset, quiet_environment
from tests.tracking.servers import MlflowServer, until

ROUNDS = 4
PERIOD_SECONDS, SETTLING_SECONDS = 12.0, 2.0
MOST = 1.05
"""A step beside a server that is away, over one beside a server that answers; where the periods in which it answers
differ by more among each other, that is the noise and the bound."""
SHAPE = (
    "model.hidden_dim=128",
    "model.ffn_dim=512",
    "model.num_layers=4",
    "phases.0.sequence_length=256",
    "train.log_every.steps=1",
)


class Period(NamedTuple):
    """What the server did from one Unix time to another."""

    state: str
    begins: float
    ends: float


class Training:
    """One run that goes on to the end of the context, however that comes."""

    def __init__(self, folder: Path, *, uri: str) -> None:
        self.path = folder / "runs" / "tracked"
        words = [f"data.path={prepare_tiny_dataset(folder)}", "name=tracked", f"tracking.uri={uri}", *SHAPE]
        self._process = subprocess.Popen(
            [hierlm_path(), "train", ROOT / "configs/tiny/transformer.yaml", *words, "phases.0.duration.steps=1000000"],
            cwd=folder,
            env=quiet_environment(),
            stdout=subprocess.DEVNULL,
        )

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()

    def steps(self) -> list[tuple[float, int, float]]:
        """(Unix time, step, its seconds) of every whole record."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return [(r["time"], r["step"], r["step_seconds"]) for r in records if r["kind"] == "train"]


def wait_through(server: MlflowServer) -> list[Period]:
    """Every state of the server in turn, `ROUNDS` times."""
    periods = []
    for _ in range(ROUNDS):
        periods.append(_period("answering"))
        server.freeze()
        periods.append(_period("frozen"))
        server.kill()
        periods.append(_period("dead"))
        server.start()
    return periods


def _period(state: str) -> Period:
    time.sleep(SETTLING_SECONDS)
    begins = time.time()
    time.sleep(PERIOD_SECONDS)
    return Period(state, begins, time.time())


def medians(periods: list[Period], steps: list[tuple[float, int, float]], state: str) -> list[float]:
    """Median seconds of a step in each period of the state."""
    return [
        median(seconds for when, _, seconds in steps if period.begins <= when < period.ends)
        for period in periods
        if period.state == state
    ]


def measure(say: Callable[[str], object] = print) -> bool:
    """Whether every claim holds."""
    with tempfile.TemporaryDirectory(prefix="bench-tracker-") as name:
        folder = Path(name)
        server = MlflowServer(folder)
        server.start()
        try:
            with Training(folder, uri=server.uri) as training:
                until(lambda: len(training.steps()) > 5, what="the first steps")
                periods = wait_through(server)
            hierlm("track", "sync", training.path, cwd=folder)
            sent = steps_in_mlflow(server.uri)
        finally:
            server.kill()
        steps = training.steps()
    return report(periods, steps, sent, say=say)


def steps_in_mlflow(uri: str) -> list[int]:
    """The steps of the training loss of the one run, as MLflow tells them."""
    client = MlflowClient(uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(ids, "tags.`hierlm.part` = 'run'")
    return [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]


def report(
    periods: list[Period], steps: list[tuple[float, int, float]], sent: list[int], *, say: Callable[[str], object]
) -> bool:
    """Print the ratios; whether they hold and nothing is missing."""
    answering = medians(periods, steps, "answering")
    say(f"load of the machine {os.getloadavg()[0]:.1f} of {os.cpu_count()}; step {1000 * median(answering):.1f} ms")
    noise = max(answering) / min(answering)
    bound, holds = max(MOST, noise), True
    say(f"medians of the periods in which it answers differ by a factor of {noise:.3f}")
    for state in ("frozen", "dead"):
        ratio = median(x / y for x, y in zip(medians(periods, steps, state), answering, strict=True))
        holds &= ratio <= bound
        verdict = "holds" if ratio <= bound else "MISSED"
        what = f"step with a server {state}, over one that answers"
        say(f"{what:<52} {ratio:.3f}x  claimed <= {bound:.3f}  {verdict}")
    whole = sent == [step for _, step, _ in steps]
    say(f"steps recorded {len(steps)}, in MLflow afterwards {len(sent)}: {'every one once' if whole else 'DIFFERENT'}")
    return holds and whole


if __name__ == "__main__":
    sys.exit(int(not measure()))
