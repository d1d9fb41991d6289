"""What is wrong with the data of a run, all of it at once, before anything heavy is imported."""

from collections.abc import Mapping, Sequence

from data_pipeline.config import SourceConfig
from data_pipeline.errors import DataError
from data_pipeline.read.split import can_be_evaluated
from data_pipeline.shard_index import DatasetIndex, load_index


def check(
    sources: Sequence[SourceConfig],
    *,
    sequence_lengths: Sequence[int],
    vocab_size: int,
    tokenizer: str | None = None,
    splits: Sequence[str] = ("train",),
    lanes: int | None = None,
) -> list[str]:
    """One line per problem; empty when training and evaluation can read these datasets.

    `tokenizer` is an expected kind or fingerprint (or its first 8 or more characters). `lanes` is the global batch
    size of a model with recurrent memory: every lane needs a row. Splits other than train may be of any length.
    """
    problems: list[str] = []
    opened: list[tuple[str, DatasetIndex]] = []
    for source in sources:
        try:
            opened.append((source.path, load_index(source.path)))
        except DataError as error:
            problems += error.problems
    for path, index in opened:
        problems += _tokenizer_problems(path, index, vocab_size=vocab_size, expected=tokenizer)
        problems += _image_problems(path, index, sequence_lengths=sequence_lengths)
        problems += _length_problems(path, index, sequence_lengths=sequence_lengths, splits=splits, lanes=lanes or 1)
    return problems + _mixture_problems(opened)


def evaluation_problems(
    paths: Sequence[str], weights: Mapping[str, Sequence[float]], *, split: str = "valid"
) -> list[str]:
    """One line where nothing that a phase draws from can be evaluated; `weights` of the sources by phase."""
    there = [can_be_evaluated(path, split) for path in paths]
    without = [
        phase
        for phase, shares in weights.items()
        if not any(share > 0 and has for share, has in zip(shares, there, strict=True))
    ]
    if not without:
        return []
    reads = "" if len(weights) == 1 or len(without) == len(weights) else f"phase {', '.join(without)}: "
    told = [_without(path, split) for path, has in zip(paths, there, strict=True) if not has]
    return [f"{reads}nothing to evaluate on: {'; '.join(told)}"]


def _without(path: str, split: str) -> str:
    splits = load_index(path).splits
    if split in splits:
        return f"{path}: split {split} has {splits[split].tokens} tokens; evaluation needs two"
    return f"{path}: no split {split!r}; it has: {', '.join(splits)}"


def _tokenizer_problems(path: str, index: DatasetIndex, *, vocab_size: int, expected: str | None) -> list[str]:
    made_with = index.tokenizer
    problems = []
    if expected is not None and not _matches(expected, kind=made_with.kind, fingerprint=made_with.fingerprint):
        problems.append(
            f"{path}: dataset made with another tokenizer: data.tokenizer is {expected!r}, the dataset has "
            f"{made_with.kind} {made_with.fingerprint[:16]}; prepare it again or change data.tokenizer"
        )
    if made_with.vocab_size > vocab_size:
        problems.append(
            f"{path}: made with a {made_with.kind} tokenizer of {made_with.vocab_size} tokens, model.vocab_size is "
            f"{vocab_size}; set model.vocab_size={made_with.vocab_size}"
        )
    return problems


def _matches(expected: str, *, kind: str, fingerprint: str) -> bool:
    return expected == kind or (len(expected) >= 8 and fingerprint.startswith(expected))


def _length_problems(
    path: str, index: DatasetIndex, *, sequence_lengths: Sequence[int], splits: Sequence[str], lanes: int
) -> list[str]:
    problems = []
    for split in splits:
        if split not in index.splits:
            problems.append(f"{path}: no split {split!r}; it has: {', '.join(index.splits)}")
            continue
        tokens = index.splits[split].tokens
        longest = max(sequence_lengths)
        needed = lanes * longest + 1 if split == "train" else 2
        if tokens < needed:
            problems.append(
                f"{path}: sequence_length {longest} is longer than the {split} split: it needs {needed} tokens"
                f"{f' for {lanes} lanes' if lanes > 1 and split == 'train' else ''}, the split has {tokens}"
            )
    return problems


def _image_problems(path: str, index: DatasetIndex, *, sequence_lengths: Sequence[int]) -> list[str]:
    """Rows that begin at another byte of every image: pooled groups would join other channels in each of them."""
    if index.image_shape is None:
        return []
    size = index.image_shape.num_bytes
    return [
        f"{path}: sequence_length {length} cuts its images of {index.image_shape} pixels, {size} bytes, at another "
        f"place each; allowed: a divisor or a multiple of {size}, nearest: {_nearest_aligned(length, size)}"
        for length in dict.fromkeys(sequence_lengths)
        if length % size and size % length
    ]


def _nearest_aligned(length: int, size: int) -> int:
    aligned = [divisor for divisor in range(1, size + 1) if size % divisor == 0]
    multiples = [length // size * size, -(-length // size) * size]
    return min((a for a in (*aligned, *multiples) if a), key=lambda a: abs(a - length))


def _mixture_problems(opened: Sequence[tuple[str, DatasetIndex]]) -> list[str]:
    if not opened:
        return []
    first_path, first = opened[0]
    kinds = [
        f"{path}: made of {index.kind}, {first_path} of {first.kind}; all sources of a run must be of one kind"
        for path, index in opened[1:]
        if index.kind != first.kind
    ]
    return kinds + [
        f"{path}: another tokenizer ({index.tokenizer.kind} {index.tokenizer.fingerprint[:16]}) than {first_path} "
        f"({first.tokenizer.kind} {first.tokenizer.fingerprint[:16]}); all sources of a run must share one"
        for path, index in opened[1:]
        if index.tokenizer.fingerprint != first.tokenizer.fingerprint
    ]
