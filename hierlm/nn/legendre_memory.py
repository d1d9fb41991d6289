"""Linear read-outs of the Legendre memory at every time step, in forms that agree (2102.11417; 2110.02402, section 4).

Shapes: B batch, n time steps, d channels, q order, r rows of the read-out L [r, q].
The full state M_t [q, d] of every step is never made: L (H * x) = (L H) * x, a convolution with r filters
instead of q (the reduced-order form). A call may be cut into chunks that hand on M, which bounds the activations.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hierlm.nn import legendre

DIRECT_LENGTH = 64
"""Up to so many steps the convolution is one product with a triangular matrix: exactly causal, and faster than FFTs."""


@dataclass(frozen=True)
class LegendreMemory:
    """A memory of `order` coefficients over `window_length` steps; state [B, q, d], zeros at the start of a stream."""

    order: int
    window_length: int
    chunk_length: int | None  # steps convolved at once; None = all of a call

    def read(self, x: Tensor, readout: Tensor, *, state: Tensor | None) -> Tensor:
        """x [B, n, d], readout [r, q] -> [B, n, r, d], the read-out after every step; `state` None = zeros."""
        return self.advance(x, readout, state=state, needs_state=False)[0]

    def advance(
        self, x: Tensor, readout: Tensor, *, state: Tensor | None, needs_state: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """(read-outs [B, n, r, d], the state after the last step if it is needed)."""
        chunks = x.split(self.chunk_length or x.shape[1], dim=1)
        longest = chunks[0].shape[1]
        filters = readout @ self._response(longest, like=x)
        carries = None if state is None and len(chunks) == 1 else self._carries(readout, longest)
        outputs = []
        for index, chunk in enumerate(chunks):
            num_steps = chunk.shape[1]
            output = causal_convolution(chunk, filters[:, :num_steps])
            if state is not None and carries is not None:
                output = output + torch.einsum("krq,bqd->bkrd", carries[:num_steps], state)
            outputs.append(output)
            if needs_state or index + 1 < len(chunks):
                state = self._after(chunk, state)
        return torch.cat(outputs, dim=1), state

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        """x [B, d], state [B, q, d] -> the next state: the recurrent form."""
        moved = self._transition(1, like=x) @ state
        return moved + self._response(1, like=x) * x[:, None, :]

    def _after(self, x: Tensor, state: Tensor | None) -> Tensor:
        """State after the steps x [B, n, d]: the last column of H * x, and what is left of `state`."""
        num_steps = x.shape[1]
        written = torch.einsum("qn,bnd->bqd", self._response(num_steps, like=x).flip(-1), x)
        return written if state is None else written + self._transition(num_steps, like=x) @ state

    def _carries(self, readout: Tensor, num_steps: int) -> Tensor:
        """[n, r, q]: L A_bar^(k+1), what step k of a chunk reads of the state before it."""
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


def causal_convolution(x: Tensor, filters: Tensor) -> Tensor:
    """x [B, n, d], filters [r, n] -> [B, n, r, d]: sum over j <= t of filters[r, t - j] x[j]."""
    return direct_convolution(x, filters) if x.shape[1] <= DIRECT_LENGTH else fft_convolution(x, filters)


def direct_convolution(x: Tensor, filters: Tensor) -> Tensor:
    """By the lower triangular matrices of the filters; O(n^2), and a later step cannot change an earlier bit."""
    num_steps = x.shape[1]
    padded = torch.nn.functional.pad(filters, (num_steps - 1, 0))
    triangular = padded.unfold(-1, num_steps, 1).flip(-1)
    return torch.einsum("rtj,bjd->btrd", triangular, x)


def fft_convolution(x: Tensor, filters: Tensor) -> Tensor:
    """O(n log n). Padded to 2n: without, the end of the sequence would wrap round into its beginning."""
    num_steps = x.shape[1]
    spectrum = torch.fft.rfft(x.transpose(1, 2).contiguous(), n=2 * num_steps)
    product = spectrum[:, None] * torch.fft.rfft(filters, n=2 * num_steps)[:, None]
    convolved = torch.fft.irfft(product, n=2 * num_steps)[..., :num_steps]
    return convolved.permute(0, 3, 1, 2).contiguous()
