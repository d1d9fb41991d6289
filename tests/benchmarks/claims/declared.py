"""What a claim is made of: the corpus it reads, the runs that try it, and who reads their records."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hierlm.config.load import load_config
from hierlm.config.run_config import RunConfig
from hierlm.models.config import ModelConfig
from tests.conftest import ROOT

if TYPE_CHECKING:
    from tests.benchmarks.claims.findings import Finding
    from tests.benchmarks.claims.results import Results

PAPERS = Path("configs/papers")


@dataclass(frozen=True)
class Corpus:
    """A dataset made by `hierlm data prepare`; `{data}` stands for the folder of the corpora."""

    name: str
    inputs: tuple[str, ...]
    options: tuple[str, ...]
    licence: str


@dataclass(frozen=True)
class Run:
    """One training: a config of configs/papers and what is changed in it."""

    name: str
    arm: str
    seed: int
    config: Path  # below the repository
    overrides: tuple[str, ...]

    def load(self) -> RunConfig[ModelConfig]:
        """The checked config; UserError with every problem."""
        return load_config(ROOT / self.config, self.overrides)

    def with_overrides(self, *more: str) -> "Run":
        return replace(self, overrides=(*self.overrides, *more))


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but the seed; named as a sweep over `seed` names its members."""

    name: str
    title: str  # of its row in a table
    config: str  # below configs/papers
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (1, 2, 3)

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(self._run(seed) for seed in self.seeds)

    @property
    def submit_command(self) -> str:
        """The same runs as a job array on a cluster, with the same names."""
        words = [f"hierlm submit {PAPERS / self.config} name={self.name}", *self.overrides]
        return " ".join([*words, f"--array seed={','.join(map(str, self.seeds))}"])

    def _run(self, seed: int) -> Run:
        sweep = (f"seed={seed}", f"tracking.sweep={self.name}", f"tracking.sweep_size={len(self.seeds)}")
        name = f"{self.name}-seed{seed}"
        return Run(name, self.name, seed, PAPERS / self.config, (*self.overrides, *sweep, f"name={name}"))


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper and how it is tried. Everything is judged from exported results, without the runs."""

    name: str
    paper: str
    says: str
    protocol: str
    corpus: Corpus
    arms: tuple[Arm, ...]
    columns: tuple[str, ...]  # of its table, see `table`
    judge: "Callable[[Results], list[Finding]]"
    figure: "Callable[[Results], str]"  # an SVG
    figure_title: str
    limits: str  # what the runs cannot say, whatever they show
    measure: Callable[[], dict[str, dict[str, int]]] | None = None  # what no run records, measured once at the end

    @property
    def runs(self) -> tuple[Run, ...]:
        """The arms in turn, so that the first seed of all comes first."""
        most = max(len(arm.seeds) for arm in self.arms)
        return tuple(arm.runs[i] for i in range(most) for arm in self.arms if i < len(arm.seeds))

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


def rehearsed(run: Run, *, steps: int, root: Path) -> Run:
    """A few steps of every phase in a scratch place, with little evaluation."""
    phases = range(len(run.load().phases))
    short = [f"phases.{index}.duration.steps={steps}" for index in phases]
    short += ["phases.0.learning_rate.warmup.steps=1", "train.eval_rows=2", "train.eval_every=null"]
    return run.with_overrides(*short, f"run_root={root}", f"tracking.uri=sqlite:///{root}/mlflow.db")
