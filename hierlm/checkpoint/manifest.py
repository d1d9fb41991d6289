"""What a checkpoint says about itself. A directory without a valid manifest is not a checkpoint. Torch-free."""

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError

from data_pipeline.names import RelativeName
from data_pipeline.read.cursor import Cursor
from hierlm.checkpoint.layout import MANIFEST
from hierlm.durable import FileRecord, write_synced
from hierlm.optim.state_names import StateNames
from hierlm.parallel.config import ParallelConfig
from hierlm.strict import Strict

SCHEMA_VERSION = 1
Why = Literal["periodic", "final", "stop", "phase_boundary"]


class Layout(Strict):
    """How the state is spread over ranks: what decides whether a load needs a conversion."""

    data_parallel_degree: PositiveInt = 1
    tensor_parallel_degree: PositiveInt = 1
    pipeline_parallel_degree: PositiveInt = 1
    zero_stage: NonNegativeInt = 0

    @classmethod
    def of(cls, parallel: ParallelConfig) -> Self:
        """The part of the user's layout that shapes the files."""
        return cls(**{name: getattr(parallel, name) for name in cls.model_fields})

    def __str__(self) -> str:
        return (
            f"dp {self.data_parallel_degree} x tp {self.tensor_parallel_degree} x pp {self.pipeline_parallel_degree}, "
            f"ZeRO-{self.zero_stage}"
        )


class Facts(Strict):
    """What the caller knows of the state being saved."""

    step: NonNegativeInt
    tokens_seen: NonNegativeInt
    phase: str
    step_in_phase: NonNegativeInt
    layout: Layout
    precision: Literal["fp32", "bf16"]
    config_fingerprint: str
    config: dict[str, Any] | None = Field(default=None, description="the whole of it, as config.yaml has it")
    why: Why
    cursor: Cursor | None = Field(default=None, description="the data position; None: nothing was read")
    proof: tuple[float, ...] | None = Field(default=None, description="nats of fixed tokens, to compare after a load")
    optimizer: StateNames = Field(
        default_factory=lambda: StateNames.recorded(None), description="who wrote the state, and what is called how"
    )
    skipped_steps: NonNegativeInt = Field(default=0, description="of all steps, those left out")
    skipped_in_a_row: NonNegativeInt = Field(default=0, description="of them, those at the end")


class Manifest(Facts):
    """`Facts` and what was found while saving."""

    schema_version: int = SCHEMA_VERSION
    versions: dict[str, str]
    written_at: str
    save_seconds: NonNegativeFloat
    files: dict[RelativeName, FileRecord]

    @property
    def size_bytes(self) -> int:
        return sum(record.size_bytes for record in self.files.values())

    @property
    def is_finite(self) -> bool:
        """False for a trained model (it has a data position) that had no finite loss to prove it by when it was saved.

        Such a state is not saved any more, but was.
        """
        return self.proof is not None or self.cursor is None


class ManifestError(ValueError):
    """A manifest that is missing, unreadable or not what was written; one line."""


def make_manifest(facts: Facts, *, files: Mapping[str, FileRecord], save_seconds: float) -> Manifest:
    """The manifest of files that are complete on disk."""
    return Manifest(
        **facts.model_dump(),
        versions=installed_versions(),
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        save_seconds=round(save_seconds, 3),
        files=dict(sorted(files.items())),
    )


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Synced, with a checksum over itself."""
    content = manifest.model_dump(mode="json")
    write_synced(directory / MANIFEST, json.dumps({**content, "checksum": _checksum(content)}, indent=1) + "\n")


def read_manifest(directory: Path) -> Manifest:
    """Raises ManifestError, saying what is wrong in one line."""
    try:
        content = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(f"{MANIFEST}: missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{MANIFEST}: cannot be read ({type(error).__name__})") from None
    if not isinstance(content, dict) or content.pop("checksum", None) != _checksum(content):
        raise ManifestError(f"{MANIFEST}: content differs from its checksum")
    if content.get("schema_version") != SCHEMA_VERSION:
        found = content.get("schema_version")
        raise ManifestError(f"{MANIFEST}: schema version {found}, this hierlm reads {SCHEMA_VERSION}")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])).encode("unicode_escape").decode()  # its words are not ours
        raise ManifestError(f"{MANIFEST}: {where}: {first['msg']}") from None


def installed_versions() -> dict[str, str]:
    """Of what writes and reads the files; found without importing any of it."""
    return {"python": platform.python_version(), **{name: _version(name) for name in ("hierlm", "torch", "deepspeed")}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
