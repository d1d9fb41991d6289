"""What a preparation was asked for, and what of it decides the output."""

import hashlib
import importlib.metadata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_pipeline.documents import DocumentMode
from data_pipeline.errors import DataError
from data_pipeline.sources import SourceFile
from data_pipeline.splits import Part, SplitPlan
from data_pipeline.tokenizer_training import ModelType

DEFAULT_SHARD_TOKENS = 1 << 24
MAX_CHUNK_TOKENS = 1 << 16


@dataclass(frozen=True)
class Request:
    """One call of `prepare`; `workers` and `resume` do not change the output."""

    files: tuple[SourceFile, ...]
    given: tuple[str, ...]  # the inputs as the user named them
    output: Path
    tokenizer: Literal["bytes", "sentencepiece"] = "bytes"
    vocab_size: int = 8192
    model_type: ModelType = "bpe"
    tokenizer_model: Path | None = None
    splits: SplitPlan = field(default_factory=SplitPlan)
    documents: DocumentMode = "file"
    shard_tokens: int = DEFAULT_SHARD_TOKENS
    workers: int | None = None
    resume: bool = False

    @property
    def chunk_tokens(self) -> int:
        return min(MAX_CHUNK_TOKENS, self.shard_tokens)


def signature_of(request: Request, corpus: tuple[Part, ...]) -> dict[str, Any]:
    """Everything that decides the output, and nothing that does not."""
    model = model_bytes(request)
    is_bytes = request.tokenizer == "bytes"
    trained = not is_bytes and model is None
    return {
        "inputs": [
            {
                "given": list(request.given) if part.only_split is None else f"split {part.only_split}",
                "num_files": len(part.files),
                "stored_bytes": sum(file.stored_bytes for file in part.files),
            }
            for part in corpus
        ],
        "tokenizer": request.tokenizer,
        "tokenizer_model_sha256": model and hashlib.sha256(model).hexdigest(),
        "vocab_size": request.vocab_size if trained else None,
        "model_type": request.model_type if trained else None,
        "splits": {**dict(request.splits.shares), **dict(request.splits.files)},
        "documents": request.documents,
        "shard_tokens": request.shard_tokens,
        "versions": {} if is_bytes else {"sentencepiece": importlib.metadata.version("sentencepiece")},
    }


def model_bytes(request: Request) -> bytes | None:
    if request.tokenizer_model is None:
        return None
    if request.tokenizer == "bytes":
        raise DataError("--tokenizer-model: the bytes tokenizer has no model; add --tokenizer sentencepiece")
    try:
        return request.tokenizer_model.read_bytes()
    except OSError as error:
        raise DataError(f"{request.tokenizer_model}: cannot be read ({error.strerror})") from None


def stamp_of(corpus: tuple[Part, ...]) -> str:
    """Changes when an input is replaced or written to between two attempts."""
    lines = [f"{f.name} {f.stored_bytes} {f.modified_seconds!r}" for part in corpus for f in part.files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
