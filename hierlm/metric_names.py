"""Names of records, fields and metrics, once: what metrics.jsonl holds and what a tracker calls it."""

from collections.abc import Mapping
from typing import Any, Literal

Record = Mapping[str, Any]
Kind = Literal["train", "eval", "save", "start_up", "system"]

KIND, STEP, TIME, PHASE, SPLIT, NODE = "kind", "step", "time", "phase", "split", "node"

TRAIN, EVAL, SAVE, START_UP, SYSTEM = "train", "eval", "save", "start_up", "system"

TOKENS = "tokens"  # that an evaluation scored
TOKENS_SEEN = "tokens_seen"
LOSS = "loss"
PERPLEXITY = "perplexity"
BITS_PER_BYTE = "bits_per_byte"
BITS_PER_DIMENSION = "bits_per_dimension"  # of images: a byte is a dimension
LEARNING_RATE = "learning_rate"
GRAD_NORM = "grad_norm"
GRAD_NORM_OF_LAYERS = "grad_norm.layers."  # with the index of a layer of the list behind it
TOKENS_PER_SECOND = "tokens_per_second"
STEP_SECONDS = "step_seconds"
DATA_WAIT_FRACTION = "data_wait_fraction"
DEVICE_MEMORY_BYTES = "device_memory_bytes"
SHARE_OF_PEAK = "share_of_peak"
SOURCES = "sources"  # of an evaluation of several: by name, what `loss` and the rest are the weighted mean of
WEIGHT = "weight"  # of a source: its share in that mean
EVAL_SECONDS = "eval_seconds"  # of an evaluation
SAVE_SECONDS = "save_seconds"  # of a checkpoint
SAVE_BLOCKING_SECONDS = "save_blocking_seconds"  # of it, how long training was held up

LAYER_LOSS = LOSS + "/"
"""How the fields begin that hold losses layers report; `loss/total` is those, weighted, and the loss."""

FIELDS = frozenset(
    {KIND, STEP, TIME, PHASE, SPLIT, TOKENS, TOKENS_SEEN, LOSS, PERPLEXITY, BITS_PER_BYTE, BITS_PER_DIMENSION}
    | {LEARNING_RATE, GRAD_NORM, TOKENS_PER_SECOND, STEP_SECONDS, DATA_WAIT_FRACTION, DEVICE_MEMORY_BYTES}
    | {SHARE_OF_PEAK, SOURCES, WEIGHT, EVAL_SECONDS, "skipped_steps", "peak_kind"}
)
"""What logged steps and evaluations hold of their own; the rest, but for norms of gradients, is what layers report."""

_NOT_METRICS = frozenset({STEP, TIME})


def grad_norm_of_layer(index: int) -> str:
    """The field that holds the gradient norm of one layer; names sort as layers do."""
    return f"{GRAD_NORM_OF_LAYERS}{index:03d}"


def stream(record: Record) -> str:
    """The series a record continues: `train`, the split of an evaluation, or `system/<node>`.

    Steps rise strictly along a stream; metric names of a tracker are `<stream>/<field>`, of a source of a mixture
    `<stream>/<source>/<field>`.
    """
    kind = record.get(KIND, TRAIN)
    if kind == EVAL:
        return str(record.get(SPLIT, "valid"))
    if kind == SYSTEM:
        return f"{SYSTEM}/{record.get(NODE, '0')}"
    return str(kind)


def of_stream(name: str) -> dict[str, str]:
    """The fields that put a record into a stream: the inverse of `stream`."""
    if name.startswith(SYSTEM + "/"):
        return {KIND: SYSTEM, NODE: name.removeprefix(SYSTEM + "/")}
    return {KIND: name} if name in (TRAIN, SAVE, START_UP) else {KIND: EVAL, SPLIT: name}


def metric_values(record: Record) -> dict[str, float]:
    """`<stream>/<field>`, and of a source `<stream>/<source>/<field>`, -> number, for every field that is one."""
    prefix = stream(record)
    found = _numbers(prefix, record)
    for source, measured in record.get(SOURCES, {}).items():
        found |= _numbers(f"{prefix}/{source}", measured)
    return found


def reported(record: Record) -> dict[str, float]:
    """What layers reported in a logged step or an evaluation: losses first, then metrics, by name."""
    others = (name for name in record if name not in FIELDS and not name.startswith(GRAD_NORM_OF_LAYERS))
    found = [name for name in others if _is_number(record[name])]
    return {name: float(record[name]) for name in sorted(found, key=lambda name: (LAYER_LOSS not in name, name))}


def stream_and_field(metric: str) -> tuple[str, str]:
    """The inverse of `metric_values`, of one name: the loss of a layer has a slash in its own."""
    prefix, _, field = metric.rpartition("/")
    if prefix.endswith("/" + LOSS) and field not in FIELDS:
        return prefix.removesuffix("/" + LOSS), LAYER_LOSS + field
    return prefix, field


def _numbers(prefix: str, fields: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{prefix}/{field}": float(value)
        for field, value in fields.items()
        if field not in _NOT_METRICS and _is_number(value)
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
