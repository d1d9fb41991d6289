"""Layers told how many times the residual stream is written to up to them, where first weights follow from that."""

from collections.abc import Sequence
from functools import partial

from hierlm.nn.layer import LayerSpec
from hierlm.nn.shape import BlockShape


def at_their_depth(specs: Sequence[LayerSpec]) -> list[LayerSpec]:
    """The list with every `shape` that scales by layer at the depth of its layer: 2 (l + 1) in a plain stack.

    A class of layers says in `num_writes` how often one writes; a block of one sublayer writes once.
    """
    found, num_writes = list[LayerSpec](), 0
    for spec in specs:
        writes = getattr(spec.func, "num_writes", 0) if isinstance(spec, partial) else 0
        if not isinstance(spec, partial) or not writes:
            found.append(spec)
            continue
        num_writes += min(writes, len(spec.keywords.get("parts", "sf"))) if "parts" in spec.keywords else writes
        shape = spec.keywords["shape"]
        is_moved = isinstance(shape, BlockShape) and shape.depth_scaling == "layer"
        found.append(partial(spec, shape=shape.at_depth(num_writes)) if is_moved else spec)
    return found
