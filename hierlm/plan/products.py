"""What a product costs at its own shape, for work that is described by its shapes and not traced.

A device multiplies in tiles of the result, as many at once as it has processors, so that the last wave is rarely full
(NVIDIA, "Matrix multiplication background user's guide", tile and wave quantization). That the smaller tile reaches
0.9 of the larger ones' rate is our assumption.
"""

from math import ceil

TILES = ((256, 128, 1.0), (128, 256, 1.0), (128, 128, 0.9))
"""(Rows, columns, share of the best rate)."""


def filled_flops(rows: int, inner: int, columns: int, *, processors: int) -> float:
    """FLOPs of [rows, inner] x [inner, columns], those of idle processors included, in the tiling that idles least."""
    used = max(_used(rows, columns, tile, processors) for tile in TILES)
    return 2 * rows * inner * columns / used


def _used(rows: int, columns: int, tile: tuple[int, int, float], processors: int) -> float:
    """Share of the device at work, of the rate that the tile reaches."""
    height, width, share = tile
    waves = ceil(ceil(rows / height) * ceil(columns / width) / processors)
    return share * rows * columns / (waves * processors * height * width)
