"""What every part that follows the steps of a run is given."""

from dataclasses import dataclass
from typing import Any

from hierlm.config.run_config import RunConfig
from hierlm.phases.timeline import Timeline
from hierlm.train.record.console import Console
from hierlm.train.record.recorder import Recorder


@dataclass(frozen=True)
class Course:
    """What the run asks for, when what holds, and where to report to."""

    config: RunConfig[Any]
    timeline: Timeline
    recorder: Recorder
    console: Console
