"""What is in a prepared dataset: counts, compression, and a look at the text."""

from pathlib import Path
from typing import Any

from data_pipeline.reader import SplitReader
from data_pipeline.shard_index import load_index

SAMPLE_TOKENS = 200


def inspect(directory: str | Path, *, samples: int = 1) -> dict[str, Any]:
    """Counts per split and `samples` stretches of text of each, evenly spaced. DataError when it is no dataset."""
    index = load_index(directory)
    return {
        "path": str(directory),
        "fingerprint": index.fingerprint,
        "tokenizer": index.tokenizer.model_dump(),
        "dtype": index.dtype,
        "chunk_tokens": index.chunk_tokens,
        "splits": {name: _split_summary(SplitReader(directory, name), samples=samples) for name in index.splits},
        "totals": index.totals.model_dump(),
        "made": index.made,
    }


def _split_summary(split: SplitReader, *, samples: int) -> dict[str, Any]:
    record = split.record
    return {
        "shards": len(record.shards),
        "stored_bytes": sum(shard.bytes for shard in record.shards),
        "tokens": record.tokens,
        "source_bytes": record.source_bytes,
        "documents": record.documents,
        "bytes_per_token": record.source_bytes / record.tokens if record.tokens else None,
        "samples": [_sample(split, number * record.tokens // max(samples, 1)) for number in range(samples)],
    }


def _sample(split: SplitReader, start: int) -> str:
    tokens = split.read(start, min(start + SAMPLE_TOKENS, split.num_tokens))
    return split.tokenizer().decode(tokens.tolist()).decode("utf-8", "replace")
