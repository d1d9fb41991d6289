"""What is in a prepared dataset: counts, compression, and a look at the text or the images."""

from pathlib import Path
from typing import Any

from data_pipeline.image_shape import NUM_CHANNELS, ImageShape
from data_pipeline.masking import masked_tree
from data_pipeline.read.reader import SplitReader
from data_pipeline.shard_index import load_index

SAMPLE_TOKENS = 200
SAMPLE_PIXELS = 8


def inspect(directory: str | Path, *, samples: int = 1) -> dict[str, Any]:
    """Counts per split and `samples` stretches of text or images of each, evenly spaced.

    DataError when it is no dataset.
    """
    index = load_index(directory)
    return {
        "path": str(directory),
        "fingerprint": index.fingerprint,
        "kind": index.kind,
        "lossy": index.lossy,
        "image_shape": index.image_shape and list(index.image_shape),
        "tokenizer": index.tokenizer.model_dump(),
        "dtype": index.dtype,
        "chunk_tokens": index.chunk_tokens,
        "splits": {name: _split_summary(SplitReader(directory, name), samples=samples) for name in index.splits},
        "totals": index.totals.model_dump(),
        "made": masked_tree(index.made),
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
    shape = split.index.image_shape
    if shape is not None:
        return _image_sample(split, start // shape.num_bytes, shape)
    tokens = split.read(start, min(start + SAMPLE_TOKENS, split.num_tokens))
    return split.tokenizer().decode(tokens.tolist()).decode("utf-8", "replace")


def _image_sample(split: SplitReader, number: int, shape: ImageShape) -> str:
    """Enough to see that it is the picture one thinks of: its mean colour and its first pixels."""
    image = split.read(number * shape.num_bytes, (number + 1) * shape.num_bytes).reshape(-1, NUM_CHANNELS)
    red, green, blue = image.mean(axis=0).tolist()
    pixels = " ".join("{:02x}{:02x}{:02x}".format(*pixel) for pixel in image[:SAMPLE_PIXELS].tolist())
    return f"image {number}: mean red {red:.0f}, green {green:.0f}, blue {blue:.0f}; begins {pixels}"
