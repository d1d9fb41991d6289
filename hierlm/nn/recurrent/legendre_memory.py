"""Linear read-outs of the Legendre memory at every time step, in forms that agree (2102.11417; 2110.02402, section 4).

Shapes: B batch, n time steps, d channels, q order, r rows of the read-out L [r, q]; a call of N blocks of k steps.
The full state M_t [q, d] of every step is never made: L (H * x) = (L H) * x, a convolution with r filters
instead of q (the reduced-order form). Either a row is convolved at once, or block by block: what a block reads is
linear in its own steps and in the state before it, one product with a fixed matrix for all blocks. Chunks of blocks
are used up one after the other, which bounds what is made at once and keeps it in cache.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hierlm.nn.kernels.shared_product import shared_product
from hierlm.nn.recurrent import legendre

DIRECT_LENGTH = 64
"""Up to so many steps the convolution is one product with a triangular matrix: exactly causal, and faster than FFTs."""

BLOCK_LENGTH = 64
"""k. Per step and row of the read-out a block costs (k + q) d multiplications, and every block a step of the states."""


class Readout(NamedTuple):
    """A linear function of the state of each channel."""

    matrix: Tensor  # L [r, q]
    bias: Tensor | None = None  # [r]

    def of(self, state: Tensor) -> Tensor:
        """[B, q, d] -> [B, r, d]."""
        read = self.matrix @ state
        return read if self.bias is None else read + self.bias[:, None]


Use = Callable[..., Tensor]
"""One [B, n, r, d] for each read-out -> [B, n, ...], each step by itself."""


@dataclass(frozen=True)
class LegendreMemory:
    """A memory of `order` coefficients over `window_length` steps; state [B, q, d], zeros at the start of a stream."""

    order: int
    window_length: int
    chunk_length: int | None  # steps read at once; None = all of a call, as one convolution

    def read(self, x: Tensor, readout: Tensor, *, state: Tensor | None) -> Tensor:
        """x [B, n, d], readout [r, q] -> [B, n, r, d], the read-out after every step; `state` None = zeros."""
        return self.advance(x, [Readout(readout)], use=_as_it_is, state=state, needs_state=False)[0]

    def advance(
        self, x: Tensor, readouts: Sequence[Readout], *, use: Use, state: Tensor | None, needs_state: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """(what `use` makes of the read-outs after the steps x [B, n, d], the state after the last if it is needed)."""
        if self.chunk_length is None:
            output = use(*self._convolved(x, readouts, state))
            return output, self._after(x, state) if needs_state else None
        maps, outputs = [self._block_map(readout) for readout in readouts], []
        chunks = x.split(self.chunk_length, dim=1)
        for index, chunk in enumerate(chunks):
            blocks = F.pad(chunk, (0, 0, 0, -chunk.shape[1] % BLOCK_LENGTH)).unflatten(1, (-1, BLOCK_LENGTH))
            before = self._before_blocks(blocks, state)
            outputs.append(use(*_read_blocks(blocks, before, maps))[:, : chunk.shape[1]])
            if needs_state or index + 1 < len(chunks):
                state = self._after(chunk[:, (blocks.shape[1] - 1) * BLOCK_LENGTH :], before[:, -1])
        return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], state if needs_state else None

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        """x [B, d], state [B, q, d] -> the next state: the recurrent form."""
        moved = self._transition(1, like=x) @ state
        return moved + self._response(1, like=x) * x[:, None, :]

    def _convolved(self, x: Tensor, readouts: Sequence[Readout], state: Tensor | None) -> Sequence[Tensor]:
        """[B, n, r, d] each, all steps at once."""
        joined = torch.cat([readout.matrix for readout in readouts])
        output = causal_convolution(x, joined @ self._response(x.shape[1], like=x))
        if state is not None:
            output = output + torch.einsum("krq,bqd->bkrd", self._carries(joined, x.shape[1]), state)
        parts = output.split([len(readout.matrix) for readout in readouts], dim=2)
        biases = [readout.bias for readout in readouts]
        return [part if bias is None else part + bias[:, None] for part, bias in zip(parts, biases, strict=True)]

    def _before_blocks(self, blocks: Tensor, state: Tensor | None) -> Tensor:
        """blocks [B, N, k, d] -> the state before each, [B, N, q, d]."""
        batch, num_blocks, _, channels = blocks.shape
        now = blocks.new_zeros(batch, self.order, channels) if state is None else state
        written = self._last_response(BLOCK_LENGTH, like=blocks) @ blocks[:, : num_blocks - 1]
        transition, states = self._transition(BLOCK_LENGTH, like=blocks), [now]
        for by_block in written.unbind(1):
            states.append(by_block + transition @ states[-1])
        return torch.stack(states, dim=1)

    def _after(self, x: Tensor, state: Tensor | None) -> Tensor:
        """State after the steps x [B, n, d]: the last column of H * x, and what is left of `state`."""
        written = self._last_response(x.shape[1], like=x) @ x
        return written if state is None else written + self._transition(x.shape[1], like=x) @ state

    def _block_map(self, readout: Readout) -> Tensor:
        """[k r, k + q + 1]: what each step of a block reads of the block's steps, the state before it and the number 1.

        The number's column is the bias: added by the product, it is no pass of its own, nor is its gradient.
        """
        triangular = _triangular(readout.matrix @ self._response(BLOCK_LENGTH, like=readout.matrix))  # [r, k, k]
        bias = readout.matrix.new_zeros(len(readout.matrix)) if readout.bias is None else readout.bias
        parts = (
            triangular.transpose(0, 1),
            self._carries(readout.matrix, BLOCK_LENGTH),
            bias[:, None].expand(BLOCK_LENGTH, -1, 1),
        )
        return torch.cat(parts, dim=2).flatten(0, 1)

    def _carries(self, readout: Tensor, num_steps: int) -> Tensor:
        """[n, r, q]: L A_bar^(k+1), what step k reads of the state before all."""
        power = self._transition(1, like=readout)
        carries = (readout @ power)[None]
        while len(carries) < num_steps:
            carries = torch.cat((carries, carries @ power))
            power = power @ power
        return carries[:num_steps]

    def _transition(self, steps: int, *, like: Tensor) -> Tensor:
        return legendre.transition(self.order, self.window_length, steps, device=like.device, dtype=like.dtype)

    def _response(self, length: int, *, like: Tensor) -> Tensor:
        return legendre.response(self.order, self.window_length, length, device=like.device, dtype=like.dtype)

    def _last_response(self, length: int, *, like: Tensor) -> Tensor:
        """[q, n]: what each of so many steps has left in the state after them."""
        return self._response(length, like=like).flip(-1)


def _as_it_is(read: Tensor) -> Tensor:
    return read


def _read_blocks(blocks: Tensor, before: Tensor, maps: Sequence[Tensor]) -> Iterator[Tensor]:
    """Steps [B, N, k, d] and the state before each block [B, N, q, d] -> [B, N k, r, d] by each map."""
    batch, num_blocks, _, channels = blocks.shape
    known = torch.cat((blocks, before, blocks.new_ones(batch, num_blocks, 1, channels)), dim=2).flatten(0, 1)
    for block_map in maps:
        read = shared_product(block_map, known)
        yield read.view(batch, num_blocks * BLOCK_LENGTH, -1, channels)


def causal_convolution(x: Tensor, filters: Tensor) -> Tensor:
    """x [B, n, d], filters [r, n] -> [B, n, r, d]: sum over j <= t of filters[r, t - j] x[j]."""
    return direct_convolution(x, filters) if x.shape[1] <= DIRECT_LENGTH else fft_convolution(x, filters)


def direct_convolution(x: Tensor, filters: Tensor) -> Tensor:
    """By the lower triangular matrices of the filters; O(n^2), and a later step cannot change an earlier bit."""
    return torch.einsum("rtj,bjd->btrd", _triangular(filters), x)


def _triangular(filters: Tensor) -> Tensor:
    """[r, n] -> [r, n, n]: entry (t, j) is filters[t - j], 0 where j > t."""
    num_steps = filters.shape[1]
    return F.pad(filters, (num_steps - 1, 0)).unfold(-1, num_steps, 1).flip(-1)


def fft_convolution(x: Tensor, filters: Tensor) -> Tensor:
    """O(n log n). Padded to 2n: without, the end of the sequence would wrap round into its beginning."""
    num_steps = x.shape[1]
    spectrum = torch.fft.rfft(x.transpose(1, 2).contiguous(), n=2 * num_steps)
    product = spectrum[:, None] * torch.fft.rfft(filters, n=2 * num_steps)[:, None]
    convolved = torch.fft.irfft(product, n=2 * num_steps)[..., :num_steps]
    return convolved.permute(0, 3, 1, 2).contiguous()
