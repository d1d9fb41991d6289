"""The whole of a run. What its words choose has fields of its own, which `hierlm.config.typed` brings in."""

from typing import Generic, TypeVar

from pydantic import Field

from data_pipeline.config import DataConfig
from hierlm.checkpoint.config import CheckpointConfig, InitFromConfig
from hierlm.models.config import ModelConfig
from hierlm.objectives import objective
from hierlm.objectives.config import DEFAULT_OBJECTIVE, ObjectiveConfig
from hierlm.optim.config import OptimConfig
from hierlm.optim.optimizers import optimizer
from hierlm.parallel.config import ParallelConfig
from hierlm.phases.config import PhaseConfig
from hierlm.strict import Strict
from hierlm.tracking.config import TrackingConfig
from hierlm.train.config import TrainConfig

DEFAULT_OPTIMIZER = "adamw"

M = TypeVar("M", bound=ModelConfig)


class PluginFile(Strict):
    """A file from outside that the run needs; written by `--plugin FILE`, or as a path alone."""

    name: str = Field(description="KIND.NAME, as its line PLUGIN says")
    file: str = Field(description="absolute path")
    sha256: str


class RunConfig(Strict, Generic[M]):
    """One training run; the resolved file in the run directory is exactly this."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="run directory <run_root>/<name>")
    seed: int = Field(default=1234, ge=0, lt=2**31)
    run_root: str = "runs"
    plugins: tuple[PluginFile, ...] = ()
    model: M
    data: DataConfig
    phases: tuple[PhaseConfig, ...] = Field(min_length=1)
    init_from: InitFromConfig | None = Field(default=None, description="weights of another training to begin with")
    parallel: ParallelConfig = ParallelConfig()
    objective: ObjectiveConfig = Field(default_factory=lambda: objective(DEFAULT_OBJECTIVE).Config())
    optim: OptimConfig = Field(default_factory=lambda: optimizer(DEFAULT_OPTIMIZER).Config())
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    train: TrainConfig = TrainConfig()

    def source_weights(self, phase: PhaseConfig) -> tuple[float, ...]:
        """What the sources of `data` weigh in a phase, in their order: as it says, else as they say themselves."""
        return phase.data_weights or tuple(source.weight for source in self.data.weighted_sources)
