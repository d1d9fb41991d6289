"""summary.json: the numbers a comparison shows of one run; the training loop writes it, reports read it."""

from pathlib import Path
from secrets import token_hex
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, ValidationError

from hierlm import strict_json
from hierlm.durable import rename
from hierlm.errors import UserError
from hierlm.strict import Strict

RunStatus = Literal["running", "finished", "stopped", "failed"]


class SplitResult(Strict):
    """The last evaluation on one split."""

    loss: float  # nats per token
    perplexity: float | None = None  # exp(loss), per token; None where the objective has no such number
    bits_per_byte: float | None = None  # None where the source bytes are unknown
    bits_per_dimension: float | None = None  # of images only
    metrics: dict[str, float] = Field(default_factory=dict)  # all else that was measured, by name
    step: NonNegativeInt  # completed optimizer steps of the weights that were evaluated


class RunSummary(Strict):
    """What is known of a run at its last evaluation or end; `None` where nothing was measured."""

    name: str
    arch: str
    status: RunStatus
    seed: NonNegativeInt
    layout: dict[str, int]  # data/tensor/pipeline_parallel_degree, zero_stage
    num_parameters: NonNegativeInt
    num_non_embedding_parameters: NonNegativeInt
    steps: NonNegativeInt
    tokens_seen: NonNegativeInt
    wall_seconds: NonNegativeFloat  # over all attempts, from set-up to the end of each
    device_seconds: NonNegativeFloat  # wall_seconds x devices
    flops_per_token: NonNegativeFloat | None = None  # forward + backward, without recompute
    tokens_per_second: NonNegativeFloat | None = None  # median over logged steps
    share_of_peak: NonNegativeFloat | None = None  # median; MFU when peak_kind is data-sheet
    peak_kind: Literal["data-sheet", "measured"] | None = None
    peak_device_memory_bytes: NonNegativeInt | None = None  # of the rank that needed most
    valid: SplitResult | None = None
    test: SplitResult | None = None

    @property
    def train_flops(self) -> float | None:
        """All floating-point operations of the training so far."""
        return None if self.flops_per_token is None else self.flops_per_token * self.tokens_seen


def write_summary(path: Path, summary: RunSummary) -> None:
    """Atomic: a comparison made at any moment reads a whole one."""
    partial = path.with_name(f".{path.name}.{token_hex(8)}.partial")
    with partial.open("x", encoding="utf-8") as file:
        file.write(strict_json.dumps(summary.model_dump(mode="json"), indent=1) + "\n")
    rename(partial, path)


def read_summary(path: Path) -> RunSummary | None:
    """None when the run has none yet; UserError when the file is damaged or was not made by this version.

    Nothing hangs on it: the records of the run hold what it is made of, and the next attempt writes it anew.
    """
    if not path.exists():
        return None
    try:
        return RunSummary.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"{where}: {first['msg']}" if where else first["msg"]
    raise UserError(f"{path}: {what}; damaged, or written by another version: what it says is left out")
