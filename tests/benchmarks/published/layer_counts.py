"""What a block of a GPT does to one micro-batch on one tensor-parallel rank, by shapes: products, bytes, kernels.

Shapes: n tokens of rows of T, width D, F hidden units, H heads, over t ranks, 2 bytes a value. A result of a product
is written behind it; what lies between is read and written once where kernels are fused.
"""

from typing import NamedTuple

from hierlm.plan.device import PRODUCT_SHARE, Device
from hierlm.plan.products import filled_flops
from tests.benchmarks.published.rows import Row
from tests.benchmarks.published.systems import System

BYTES = 2
MASK = 0.5
"""Of a value of two bytes: a byte that says whether it was dropped."""


class Work(NamedTuple):
    """FLOPs at the rate of large products, bytes read and written, kernels."""

    flops: float
    moved: float
    kernels: int

    def plus(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.moved + other.moved, self.kernels + other.kernels)

    def times(self, number: float) -> "Work":
        return Work(self.flops * number, self.moved * number, round(self.kernels * number))


class Block(NamedTuple):
    """There, back, and attention's core alone, there."""

    forward: Work
    backward: Work
    core: Work
    weights: int  # a rank's

    def recomputed(self, recompute: str) -> Work:
        return {"full": self.forward, "core": self.core}.get(recompute, Work(0, 0, 0))


def block(row: Row, system: System, device: Device, *, rows: int) -> Block:
    """Of so many rows a micro-batch."""
    t, n, width, hidden = row.degrees["tensor"], rows * row.sequence_length, row.hidden_dim, row.ffn_dim
    shapes = [(n, width, 3 * width // t), (n, width // t, width), (n, width, hidden // t), (n, hidden // t, width)]
    there = sum(filled_flops(*shape, processors=device.processors) for shape in shapes)
    back = sum(
        filled_flops(a, c, b, processors=device.processors) + filled_flops(b, a, c, processors=device.processors)
        for a, b, c in shapes
    )
    x, units = BYTES * n * width, BYTES * n * hidden / t
    part, share = x / t, x / (t if row.sequence_parallel else 1)
    weights = (4 * width * width + 2 * width * hidden) // t
    mask = MASK if system.drops_out else 0
    core, core_back = _core(row, system, n=n, part=part)
    written = 3 * part + x + units + x
    # norms and sums with the residual stream, each twice; GeLU
    forward = Work(there, 2 * 2 * share + 2 * (3 + mask) * share + 2 * units + written, 9)
    # norms (their weights' gradients look a second time), sums of two gradients, dropout, GeLU, gradients of biases
    dropped = 2 * (2 + mask) * share if system.drops_out else 0
    biases = units + 3 * part + 2 * share
    moved = 2 * 5 * share + 2 * 3 * share + dropped + 3 * units + biases + written + BYTES * weights
    return Block(forward.plus(core), Work(back, moved, 22).plus(core_back), core, weights)


def _core(row: Row, system: System, *, n: int, part: float) -> tuple[Work, Work]:
    """Queries, keys and values to contexts: (there, back)."""
    t = row.degrees["tensor"]
    square = 4 * n * row.sequence_length * row.hidden_dim / t
    if system.flash_share is not None:  # half of the square; back 5 products for 2, and the parts of q, k, v joined
        flops = square / 2 * PRODUCT_SHARE / system.flash_share
        return Work(flops, 0, 2), Work(2.5 * flops, 6 * part, 4)
    scores = BYTES * row.num_heads / t * n * row.sequence_length
    turned = 8 * part  # q, k, v and contexts are laid out anew
    # scores are written; softmax and dropout read and write them, there; the same of their gradients, and once more
    # what softmax left
    there = scores * (1 + 2 + 2 + MASK) + turned
    back = scores * (1 + 3 + 2 + MASK) + turned
    return Work(square, there, 9), Work(2 * square, back, 14)


def head(row: Row, system: System, device: Device, *, rows: int) -> Work:
    """Logits and loss, there and back."""
    t, n = row.degrees["tensor"], rows * row.sequence_length
    columns = row.vocab_size // t
    a, b, c = n, row.hidden_dim, columns
    shapes = ((a, b, c), (a, c, b), (b, a, c))
    flops = sum(filled_flops(*shape, processors=device.processors) for shape in shapes)
    return Work(flops, n * columns * system.logit_bytes, 12)


def num_parameters(row: Row) -> int:
    """Of the whole model: GPT's with tied tables, learned positions, biases, two norms a block (2104.04473, eq. 2)."""
    d, f = row.hidden_dim, row.ffn_dim
    of_block = 4 * (d * d + d) + 2 * d * f + f + d + 4 * d
    return row.num_layers * of_block + (row.vocab_size + row.sequence_length) * d + 2 * d


def activation_bytes(row: Row, system: System, *, rows: int, in_flight: int) -> float:
    """Of a stage that holds so many micro-batches (2205.05198, equations 1 to 4), attention's scores included."""
    t = row.degrees["tensor"]
    whole = rows * row.sequence_length * row.hidden_dim
    scores = 0 if system.flash_share is not None else 5 * row.num_heads * row.sequence_length / row.hidden_dim
    shared = 34 / t if row.sequence_parallel else 10 + 24 / t
    layer = whole * (shared + scores / t)
    kept = {"full": 2 * whole, "core": whole * shared}.get(row.recompute, layer)
    return row.num_layers / row.degrees["pipeline"] * in_flight * kept + layer
