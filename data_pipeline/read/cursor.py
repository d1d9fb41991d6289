"""Where training is in the data, as it travels in a checkpoint: nothing here depends on ranks, workers or batches."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from data_pipeline.errors import DataError

Dealing = Literal["place", "fingerprint"]
"""What a mixture's draw tells its sources by: their place in the list, as it once was, or what they hold."""


class Cursor(BaseModel):
    """The next global sample of a data pass over datasets that must stay what they were."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    seed: NonNegativeInt
    data_pass: NonNegativeInt
    first_sample: NonNegativeInt
    fingerprints: tuple[str, ...]
    dealing: Dealing = "place"  # of checkpoints that do not say

    def require_same_data(self, fingerprints: Sequence[str], *, paths: Sequence[str]) -> None:
        """DataError naming each dataset that is not the one the cursor was made on."""
        if len(fingerprints) != len(self.fingerprints):
            raise DataError(
                f"data.sources: the run was started on {len(self.fingerprints)} datasets, now there are "
                f"{len(fingerprints)}; start a new run for other data"
            )
        changed = [
            f"{path}: the dataset changed since the run was started (fingerprint {old[:16]}, now {new[:16]}); "
            "restore it or start a new run"
            for path, old, new in zip(paths, self.fingerprints, fingerprints, strict=True)
            if old != new
        ]
        if changed:
            raise DataError(changed)
