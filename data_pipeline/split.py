"""Opening a split by name, wherever its dataset lies."""

from pathlib import Path

from data_pipeline.reader import SplitReader

Split = SplitReader


def open_split(path: str | Path, split: str) -> Split:
    """One split of a prepared dataset; DataError when it is missing, damaged or has no such split."""
    return SplitReader(path, split)
