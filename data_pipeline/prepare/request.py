"""What a preparation was asked for, and what of it decides the output."""

import hashlib
import importlib.metadata
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from data_pipeline.errors import DataError
from data_pipeline.masking import masked
from data_pipeline.prepare.documents import DocumentOptions
from data_pipeline.prepare.filters import Filters
from data_pipeline.prepare.report import Report, printable
from data_pipeline.prepare.sources import SourceFile
from data_pipeline.prepare.splits import Part, SplitPlan
from data_pipeline.prepare.text_policy import TextPolicy
from data_pipeline.prepare.tokenizer_training import ModelType

TokenizerKind = Literal["bytes", "sentencepiece", "huggingface"]
DEFAULT_SHARD_TOKENS = 1 << 24
MAX_CHUNK_TOKENS = 1 << 13
_NO_FILTERS = Filters(near_threshold=0)


@dataclass(frozen=True)
class Request:
    """One call of `prepare`; `part`, `plan`, `workers` and `resume` do not change the output."""

    files: tuple[SourceFile, ...]
    given: tuple[str, ...]  # the inputs as the user named them
    output: Path
    tokenizer: TokenizerKind = "bytes"
    vocab_size: int = 8192
    model_type: ModelType = "bpe"
    tokenizer_model: Path | None = None
    allow_lossy: bool = False  # count the bytes that tokens hold where a text does not come back
    splits: SplitPlan = field(default_factory=SplitPlan)
    documents: DocumentOptions = field(default_factory=DocumentOptions)
    policy: TextPolicy = field(default_factory=TextPolicy)
    filters: Filters = field(default_factory=Filters)
    shard_tokens: int = DEFAULT_SHARD_TOKENS
    parts: int = 1  # of whole files, prepared on their own; decides where shards end
    part: int | None = None  # prepare only this one, of a corpus that was planned
    plan: bool = False  # only read, settle the splits and the tokenizer
    workers: int | None = None
    resume: bool = False
    met: Report = field(default_factory=Report)  # on the way to the files: links, what is in archives

    @property
    def chunk_tokens(self) -> int:
        return min(MAX_CHUNK_TOKENS, self.shard_tokens)


def refuse_meaningless_options(request: Request) -> None:
    """DataError with every option given that has no meaning for images, or for bytes."""
    if request.allow_lossy and request.tokenizer == "bytes":
        raise DataError("--allow-lossy: bytes are never lost; leave it out or choose another --tokenizer")
    if request.documents.kind == "text":
        return
    text, policy, filters = DocumentOptions(), request.policy, request.filters
    given = {
        "--tokenizer": request.tokenizer != "bytes",
        "--documents": request.documents.mode != text.mode,
        "--separator": request.documents.separator != text.separator,
        "--field": request.documents.field != text.field,
        "--record-end": request.documents.record_end != text.record_end,
        "--bad-text, --max-document-bytes, --long-documents": policy != TextPolicy(),
        "--deduplicate near": filters.deduplicate == "near",
        "--min-document-bytes and the shares": replace(filters, deduplicate="none", near_threshold=0) != _NO_FILTERS,
    }
    problems = [f"{name}: is for text; leave it out with --kind images" for name, wrong in given.items() if wrong]
    if problems:
        raise DataError(problems)


def signature_of(request: Request, corpus: tuple[Part, ...]) -> dict[str, Any]:
    """Everything that decides the output, and nothing that does not."""
    model = model_bytes(request)
    is_bytes = request.tokenizer == "bytes"
    trained = not is_bytes and model is None
    given = [masked(printable(given)) for given in request.given]
    return {
        "inputs": [
            {
                "given": given if part.only_split is None else f"split {part.only_split}",
                "num_files": len(part.files),
                "stored_bytes": sum(file.stored_bytes for file in part.files),
            }
            for part in corpus
        ],
        "tokenizer": request.tokenizer,
        "tokenizer_model_sha256": model and hashlib.sha256(model).hexdigest(),
        "vocab_size": request.vocab_size if trained else None,
        "model_type": request.model_type if trained else None,
        "allow_lossy": request.allow_lossy or None,  # as it reads in datasets from before there was a choice
        "splits": {
            **dict(request.splits.shares),
            **{name: masked(printable(path)) for name, path in request.splits.files},
        },
        "documents": _documents_record(request.documents),
        "text_policy": asdict(request.policy),
        "filters": asdict(request.filters),
        "shard_tokens": request.shard_tokens,
        "parts": request.parts,
        "versions": {} if is_bytes else {name: importlib.metadata.version(name) for name in _libraries(request)},
    }


def _documents_record(documents: DocumentOptions) -> dict[str, Any]:
    record = asdict(documents)
    shape = record.pop("image_shape")
    return record if shape is None else {**record, "image_shape": list(shape)}


def _libraries(request: Request) -> tuple[str, ...]:
    """Whose version may change the tokens."""
    return ("tokenizers",) if request.tokenizer == "huggingface" else ("sentencepiece",)


def model_bytes(request: Request) -> bytes | None:
    """The tokenizer model the user gave, None when there is none to give."""
    if request.tokenizer == "huggingface" and request.tokenizer_model is None:
        raise DataError("--tokenizer huggingface needs --tokenizer-model tokenizer.json")
    if request.tokenizer_model is None:
        return None
    if request.tokenizer == "bytes":
        raise DataError("--tokenizer-model: the bytes tokenizer has no model; choose another --tokenizer")
    try:
        return request.tokenizer_model.read_bytes()
    except OSError as error:
        raise DataError(f"{request.tokenizer_model}: cannot be read ({error.strerror})") from None


def stamp_of(corpus: tuple[Part, ...]) -> str:
    """Changes when an input is replaced or written to between two attempts."""
    lines = [f"{f.name} {f.stored_bytes} {f.modified_seconds!r}" for part in corpus for f in part.files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
