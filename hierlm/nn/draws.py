"""Random numbers of layers, keyed by what they belong to: so every micro-batch size and every layout draws the same.

Each row of the global batch has a stream of its own, keyed by (seed, step, layer, row), and each site of a layer its
place in it. A number is drawn by its place in the row, so a row that is padded to a longer one keeps its numbers.
Whoever runs a layer says which rows it runs (`drawing`); where nobody does, torch's own generator is drawn from.

Shapes: B rows of the micro-batch.
"""

import hashlib
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from hierlm.nn.kernels.target import device_type

NUMBER_DEVICES = frozenset({"cpu"})
"""Where what is kept is held as numbers, ready to multiply with: a product of two types would cost a pass more.

Elsewhere it takes a byte each.
"""

DrawKey = tuple[int, int, int]
"""(seed, step, first_row): what a forward pass draws for, `first_row` counted through the global batch."""

_NEXT_DRAW = 0x9E3779B97F4A7C15
"""Odd, and far from any small multiple of 2^32: the seeds of a row's draws differ in their low halves too."""


def keyed_seed(*key: object) -> int:
    """A 63-bit seed that any change of the key changes."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Draws:
    """The streams of one layer in one pass."""

    def __init__(self, key: DrawKey, *, layer: int) -> None:
        self._seed, self._step, self._first_row = key
        self._layer = layer
        self._row_seeds: list[int] = []
        self._num_drawn: dict[int, int] = defaultdict(int)
        self._generators: dict[torch.device, torch.Generator] = {}

    def for_rows(self, num_rows: int, *, site: int, device: torch.device) -> Iterator[torch.Generator]:
        """A generator for each row in turn, at the place of this draw of `site`."""
        place = self._place(site)
        for row in range(num_rows):
            yield self._generator(device).manual_seed((self._row_seed(row) + place) % 2**63)

    def for_step(self, *, site: int, device: torch.device) -> torch.Generator:
        """The same in all layers, rows and micro-batches of the step."""
        count = self._num_drawn[site]
        self._num_drawn[site] += 1
        return self._generator(device).manual_seed(keyed_seed("draws", self._seed, self._step, count))

    def _place(self, site: int) -> int:
        count = self._num_drawn[site]
        self._num_drawn[site] += 1
        return (site * 2**20 + count) * _NEXT_DRAW

    def _row_seed(self, row: int) -> int:
        while len(self._row_seeds) <= row:
            of_row = self._first_row + len(self._row_seeds)
            self._row_seeds.append(keyed_seed("draws", self._seed, self._step, self._layer, of_row))
        return self._row_seeds[row]

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        return self._generators[device]


_current: ContextVar[Draws | None] = ContextVar("draws", default=None)


@contextmanager
def drawing(draws: Draws) -> Iterator[None]:
    """Around the layer that `draws` belong to."""
    token = _current.set(draws)
    try:
        yield
    finally:
        _current.reset(token)


def kept_of_rows(like: Tensor, share: float, *, shape: Sequence[int], site: int, part: Sequence[int] = ()) -> Tensor:
    """[B, ...]: 1 / share or 0 of `like`'s type, or true or false (`NUMBER_DEVICES`), kept with probability `share`.

    `part` = (dim, index, number of parts): the whole rows are drawn, and `shape` is that part of them.
    """
    if torch.compiler.is_compiling():
        return _kept_of_rows(like.detach(), share, shape, site, part)
    return _kept(like, share, shape, site=site, part=part)


def kept_of_step(like: Tensor, share: float, *, site: int) -> Tensor:
    """The same of `like`'s shape, one draw for all rows and layers of the step."""
    if torch.compiler.is_compiling():
        return _kept_of_step(like.detach(), share, site)
    return _kept_once(like, share, site=site)


def uniform_of_rows(like: Tensor, *, site: int) -> Tensor:
    """fp32 in [0, 1) of `like`'s shape [B, ...]."""
    return _uniform_of_rows(like.detach(), site) if torch.compiler.is_compiling() else _uniform(like, site=site)


def _kept(like: Tensor, share: float, shape: Sequence[int], *, site: int, part: Sequence[int]) -> Tensor:
    kept, draws = _room(like, shape), _current.get()
    if draws is None or kept.is_meta:
        kept.bernoulli_(share)
    elif part:
        for row, generator in zip(kept.unbind(), draws.for_rows(len(kept), site=site, device=kept.device), strict=True):
            row.copy_(_part_of_row(row, share, generator, part=part))
    else:
        for row, generator in zip(kept.unbind(), draws.for_rows(len(kept), site=site, device=kept.device), strict=True):
            row.bernoulli_(share, generator=generator)
    return _scaled(kept, share)


def _part_of_row(like: Tensor, share: float, generator: torch.Generator, *, part: Sequence[int]) -> Tensor:
    dim, index, count = part
    whole = like.new_empty([size * count if d == dim % like.dim() else size for d, size in enumerate(like.shape)])
    return whole.bernoulli_(share, generator=generator).chunk(count, dim=dim)[index]


def _kept_once(like: Tensor, share: float, *, site: int) -> Tensor:
    kept, draws = _room(like, like.shape), _current.get()
    generator = None if draws is None or kept.is_meta else draws.for_step(site=site, device=kept.device)
    return _scaled(kept.bernoulli_(share, generator=generator), share)


def _uniform(like: Tensor, *, site: int) -> Tensor:
    numbers, draws = like.new_empty(like.shape, dtype=torch.float32), _current.get()
    if draws is None or numbers.is_meta:
        return numbers.uniform_()
    for row, generator in zip(
        numbers.unbind(), draws.for_rows(len(numbers), site=site, device=like.device), strict=True
    ):
        row.uniform_(generator=generator)
    return numbers


def _room(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Where ones and zeros are drawn: for fp32 integers of its size, which a CPU draws without a copy."""
    if device_type(like) not in NUMBER_DEVICES:
        return like.new_empty(shape, dtype=torch.bool)
    return like.new_empty(shape, dtype=torch.int32 if like.dtype == torch.float32 else like.dtype)


def _scaled(kept: Tensor, share: float) -> Tensor:
    """The ones as 1 / share; of integers by its bits, which spares a pass."""
    if kept.dtype == torch.int32:
        return kept.mul_(_bits(1 / share)).view(torch.float32)
    return kept if kept.dtype == torch.bool else kept.div_(share)


def _bits(number: float) -> int:
    """An integer with the bits of a float32."""
    bits: int
    (bits,) = struct.unpack("=i", struct.pack("=f", number))
    return bits


# As operations, opaque to a compiler, which could follow neither the streams nor whoever sets them: compiled layers
# draw the same. `like` makes a draw come after what it is for.


@torch.library.custom_op("hierlm::kept_of_rows", mutates_args=())
def _kept_of_rows(like: Tensor, share: float, shape: Sequence[int], site: int, part: Sequence[int]) -> Tensor:
    return _kept(like, share, shape, site=site, part=part)


@torch.library.custom_op("hierlm::kept_of_step", mutates_args=())
def _kept_of_step(like: Tensor, share: float, site: int) -> Tensor:
    return _kept_once(like, share, site=site)


@torch.library.custom_op("hierlm::uniform_of_rows", mutates_args=())
def _uniform_of_rows(like: Tensor, site: int) -> Tensor:
    return _uniform(like, site=site)


_kept_of_rows.register_fake(lambda like, share, shape, site, part: _scaled(_room(like, shape), share))
_kept_of_step.register_fake(lambda like, share, site: _scaled(_room(like, like.shape), share))
_uniform_of_rows.register_fake(lambda like, site: like.new_empty(like.shape, dtype=torch.float32))
