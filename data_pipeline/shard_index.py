"""dataset.json: what a prepared dataset is made of. A shard that is not named there does not exist."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from data_pipeline.errors import DataError
from data_pipeline.image_shape import ImageShape, Kind
from data_pipeline.names import Count, RelativeName, Sha256
from data_pipeline.remote import read_file

FILE_NAME = "dataset.json"
SCHEMA_VERSION = 1
Dtype = Literal["uint8", "uint16", "uint32"]
ITEM_BYTES = {"uint8": 1, "uint16": 2, "uint32": 4}
MAX_VOCABULARY = 1 << 32
MAX_CHUNK_TOKENS = 1 << 32


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardRecord(_Record):
    """One finished tar; `name` is relative to the dataset."""

    name: RelativeName
    sha256: Sha256
    bytes: Count
    tokens: Count
    source_bytes: Count
    documents: Count = Field(description="documents that end in this shard")
    words: Count | None = Field(default=None, description="that begin in this shard; older datasets: none")


class SplitRecord(_Record):
    """The shards of one split in stream order, with their sums."""

    shards: tuple[ShardRecord, ...]
    tokens: Count
    source_bytes: Count
    documents: Count
    words: Count | None = None

    @model_validator(mode="after")
    def tokens_are_those_of_the_shards(self) -> "SplitRecord":
        """A reader finds the shard of a token by adding up."""
        held = sum(shard.tokens for shard in self.shards)
        if held != self.tokens:
            raise ValueError(f"{self.tokens} tokens, its shards hold {held}")
        return self

    @classmethod
    def of(cls, shards: tuple[ShardRecord, ...]) -> "SplitRecord":
        return cls(shards=shards, **_sums(shards))


class Totals(_Record):
    """Sums over the splits."""

    tokens: Count
    source_bytes: Count
    documents: Count
    words: Count | None = None


class TokenizerRecord(_Record):
    """Which tokenizer made the tokens; `file` is beside dataset.json, none for bytes."""

    kind: str
    fingerprint: Sha256
    vocab_size: PositiveInt = Field(le=MAX_VOCABULARY)
    file: RelativeName | None = None


class DatasetIndex(_Record):
    """The whole of dataset.json."""

    schema_version: Literal[1] = 1
    fingerprint: Sha256
    tokenizer: TokenizerRecord
    dtype: Dtype
    chunk_tokens: PositiveInt = Field(le=MAX_CHUNK_TOKENS)
    splits: dict[RelativeName, SplitRecord]
    totals: Totals
    kind: Kind = "text"
    lossy: bool = Field(False, description="source bytes and words are of what the tokens hold, not of the text")
    image_shape: ImageShape | None = Field(None, description="height and width of every image, each a document")
    made: dict[str, Any] = Field(description="inputs with sizes, options, versions, counts of what was left out")

    @model_validator(mode="after")
    def tokens_have_room(self) -> "DatasetIndex":
        """A shard holds at least its tokens: no reader looks beyond it."""
        for shard in (shard for split in self.splits.values() for shard in split.shards):
            if shard.tokens * ITEM_BYTES[self.dtype] > shard.bytes:
                raise ValueError(f"{shard.name}: {shard.tokens} tokens do not fit into {shard.bytes} bytes")
        return self

    def as_json(self) -> str:
        content = self.model_dump(mode="json")
        content["made"] = json.loads(json.dumps(content["made"], sort_keys=True))  # a resumed one has another order
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _sums(parts: tuple[ShardRecord | SplitRecord, ...]) -> dict[str, Any]:
    sums = {name: sum(getattr(part, name) for part in parts) for name in ("tokens", "source_bytes", "documents")}
    words = [part.words for part in parts if part.words is not None]
    return {**sums, "words": sum(words) if len(words) == len(parts) else None}


def build_index(
    *,
    tokenizer: TokenizerRecord,
    dtype: Dtype,
    chunk_tokens: int,
    splits: dict[str, SplitRecord],
    image_shape: ImageShape | None = None,
    lossy: bool = False,
    made: dict[str, Any],
) -> DatasetIndex:
    """The index with totals and fingerprint filled in."""
    return DatasetIndex(
        fingerprint=dataset_fingerprint(tokenizer=tokenizer, splits=splits),
        tokenizer=tokenizer,
        dtype=dtype,
        chunk_tokens=chunk_tokens,
        splits=splits,
        totals=Totals(**_sums(tuple(splits.values()))),
        kind="text" if image_shape is None else "images",
        image_shape=image_shape,
        lossy=lossy,
        made=made,
    )


def dataset_fingerprint(*, tokenizer: TokenizerRecord, splits: dict[str, SplitRecord]) -> str:
    """sha256 over the tokenizer and every shard's name and checksum: changes whenever a token does."""
    lines = [tokenizer.fingerprint]
    for split in sorted(splits):
        lines += [f"{split} {shard.name} {shard.tokens} {shard.sha256}" for shard in splits[split].shards]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def load_index(directory: str | Path) -> DatasetIndex:
    """Read dataset.json; DataError when it is missing, damaged or of another version."""
    path = f"{str(directory).rstrip('/')}/{FILE_NAME}"
    try:
        content = json.loads(read_file(directory, FILE_NAME))
    except FileNotFoundError:
        raise DataError(_missing(Path(directory))) from None
    except DataError:  # of a remote dataset: says all there is to say
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); prepare the dataset again") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(f"{path}: schema_version is {version!r}, this version reads {SCHEMA_VERSION}")
    try:
        return DatasetIndex.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]).encode("unicode_escape").decode()  # not our words
        raise DataError(f"{path}: {where}: {first['msg']}; prepare the dataset again") from None


def _missing(directory: Path) -> str:
    if not directory.exists():
        return (
            f"{directory}: no such dataset; make it with `hierlm data prepare --input FILE... --output {directory}`, "
            f"or of text that every machine has: `hierlm data stdlib --output {directory}`"
        )
    if (directory / "prepare.journal").exists():
        return f"{directory}: preparation is unfinished; run the same `hierlm data prepare` again with --resume"
    made_by = "`hierlm data prepare --input FILE... --output DIR`"
    return f"{directory}: not a dataset (no {FILE_NAME}); make one with {made_by}"


def split_of(index: DatasetIndex, split: str, *, directory: str | Path) -> SplitRecord:
    """The record of one split; DataError naming those there are."""
    try:
        return index.splits[split]
    except KeyError:
        there = ", ".join(index.splits)
        raise DataError(f"{directory}: no split {split!r}; it has: {there}") from None
