"""Opening a split by name, wherever its dataset lies."""

from pathlib import Path

from data_pipeline.read.reader import SplitReader
from data_pipeline.shard_index import load_index

Split = SplitReader


def open_split(path: str | Path, split: str) -> Split:
    """One split of a prepared dataset; DataError when it is missing, damaged or has no such split."""
    return SplitReader(path, split)


def lossy_note(path: str | Path) -> str:
    """What to know of a dataset that was prepared with --allow-lossy, wherever its bytes or bits per byte are told."""
    return (
        f"{path}: its tokenizer changes text (--allow-lossy): bytes and bits per byte are of what its tokens decode to"
    )


def can_be_evaluated(path: str | Path, split: str) -> bool:
    """Whether a prepared dataset has this split, with a token to predict; DataError when there is no dataset."""
    record = load_index(path).splits.get(split)
    return record is not None and record.tokens >= 2
