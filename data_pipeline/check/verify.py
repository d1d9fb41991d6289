"""Is every byte of a prepared dataset what dataset.json says?"""

from pathlib import Path

import numpy as np

from data_pipeline.check.shards import read_shard
from data_pipeline.errors import DataError
from data_pipeline.prepare.progress import Progress
from data_pipeline.read.reader import OpenShard
from data_pipeline.shard_index import DatasetIndex, ShardRecord, dataset_fingerprint, load_index
from data_pipeline.tokenize.tokenizer import load_tokenizer


def verify(directory: Path, *, progress: Progress) -> list[str]:
    """One line per damage, naming the file; empty when all is well. DataError when `directory` is no dataset."""
    index = load_index(directory)
    problems = _index_problems(directory, index)
    progress.begin("verifying", total_bytes=sum(s.bytes for split in index.splits.values() for s in split.shards))
    for split in index.splits.values():
        for shard in split.shards:
            problems += _shard_problems(directory, shard, index=index)
            progress.advance(source_bytes=shard.bytes, tokens=shard.tokens, documents=shard.documents)
    return problems


def _index_problems(directory: Path, index: DatasetIndex) -> list[str]:
    problems: list[str] = []
    try:
        load_tokenizer(directory, index.tokenizer, lossy=index.lossy)
    except DataError as error:
        problems += error.problems
    if _fingerprint(index) != index.fingerprint:
        problems.append(f"{directory / 'dataset.json'}: the fingerprint does not match the shards it names")
    for name in ("tokens", "source_bytes", "documents"):
        in_splits = sum(getattr(split, name) for split in index.splits.values())
        in_shards = sum(getattr(shard, name) for split in index.splits.values() for shard in split.shards)
        if not in_splits == in_shards == getattr(index.totals, name):
            problems.append(f"{directory / 'dataset.json'}: {name} of shards and splits do not add up")
    return problems


def _fingerprint(index: DatasetIndex) -> str | None:
    """None where names are no text that could have one."""
    try:
        return dataset_fingerprint(tokenizer=index.tokenizer, splits=index.splits)
    except UnicodeEncodeError:
        return None


def _shard_problems(directory: Path, shard: ShardRecord, *, index: DatasetIndex) -> list[str]:
    path = directory / shard.name
    try:
        (size, *_), digest = read_shard(path)
    except (OSError, ValueError) as error:  # a name may hold a NUL
        return [f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})"]
    if size != shard.bytes:
        return [f"{path}: {size} bytes, dataset.json says {shard.bytes}"]
    if digest != shard.sha256:
        return [f"{path}: damaged: sha256 is {digest[:16]}, dataset.json says {shard.sha256[:16]}"]
    return _content_problems(path, shard, index=index)


def _content_problems(path: Path, shard: ShardRecord, *, index: DatasetIndex) -> list[str]:
    opened = OpenShard(path, record=shard, dtype=np.dtype(index.dtype), chunk_tokens=index.chunk_tokens)
    largest = max(int(opened.chunk(number).max()) for number in range(opened.num_chunks))
    if largest >= index.tokenizer.vocab_size:
        return [f"{path}: token {largest} is outside the vocabulary of {index.tokenizer.vocab_size}"]
    documents = sum(len(opened.document_ends(chunk)) for chunk in range(opened.num_chunks))
    if documents != shard.documents:
        return [f"{path}: {documents} documents, dataset.json says {shard.documents}"]
    return []
