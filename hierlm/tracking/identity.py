"""What a run is to a tracker, before any number: name, parameters, data, place in a sweep."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hierlm.tracking.backend import Dataset


@dataclass(frozen=True)
class RunIdentity:
    """Constant during one attempt."""

    name: str
    uuid: str
    uri: str
    params: Mapping[str, str]
    started_ms: int | None = None  # when the first attempt began, unix time; None: not known
    attempt: int | None = None  # None: nothing is running, a synchronisation afterwards
    sweep: str | None = None
    sweep_size: int | None = None  # members there will be; None: not known
    datasets: tuple[Dataset, ...] = ()
    files: tuple[Path, ...] = field(default=())  # kept with the run from the start, if they exist

    @property
    def tags(self) -> dict[str, str]:
        """Find the run."""
        return {"hierlm.run_uuid": self.uuid, "hierlm.part": "run"}

    @property
    def sweep_tags(self) -> dict[str, str]:
        """Find the parent of the runs of a sweep."""
        assert self.sweep is not None
        return {"hierlm.sweep": self.sweep, "hierlm.part": "sweep"}

    def phase_tags(self, phase: str) -> dict[str, str]:
        """Find the child run of a phase."""
        return {"hierlm.run_uuid": self.uuid, "hierlm.part": "phase", "hierlm.phase": phase}

    def phase_params(self, phase: str) -> dict[str, str]:
        """The parameters `phases.N.*` of the phase, without the prefix."""
        is_name = re.compile(r"phases\.\d+\.name").fullmatch
        names = (key for key, value in self.params.items() if is_name(key) and value == phase)
        prefix = next(names, "none.name").removesuffix("name")
        return {key.removeprefix(prefix): value for key, value in self.params.items() if key.startswith(prefix)}
