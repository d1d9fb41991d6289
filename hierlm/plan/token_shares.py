"""Sequence parallelism without peers: the shapes and the kept tensors of `hierlm.parallel.sequence`.

A layer is run at a time, so shares are kept from one layer to the next here and not by the caller.

Shapes: B batch, T tokens, D hidden_dim, n tokens of a share.
"""

import torch
from torch import Tensor, nn

from hierlm.nn.layer import Layer
from hierlm.nn.stream import Stream
from hierlm.parallel.sequence import TokenShares, Whole
from hierlm.plan.footprint import TensorTraffic
from hierlm.plan.slices import ColumnSlice


class LoneShares(TokenShares):
    """The shares of one tensor-parallel rank of `degree`; what its peers would send is left undefined."""

    def __init__(self, *, degree: int, sums_whole: bool) -> None:
        """`sums_whole`: the backend has no reduce-scatter, as gloo."""
        self.degree, self.tp_rank = degree, 0
        self._layers, self._whole, self._gathered = set(), (0, 0), []
        self._last_gathered_again = None
        self._sums_whole = sums_whole
        self._is_share_of: Whole | None = None

    def before(self, layer: Layer, stream: Stream, whole: Whole | None) -> tuple[Stream, Whole | None]:
        if self._is_share_of is not None and layer not in self._layers:
            return self.whole(stream), None
        if self._is_share_of is None:
            stream, self._is_share_of = super().before(layer, stream, None)
        return stream, self._is_share_of

    def joined(self, stream: Stream, whole: Whole) -> Stream:
        """The next layer decides."""
        return stream

    def whole(self, stream: Stream) -> Stream:
        """The stream with its top whole again, if it is not."""
        of, self._is_share_of = self._is_share_of, None
        return stream if of is None else super().joined(stream, of)

    def missing_bytes(self, stream: Stream) -> int:
        """By how much the whole top is larger than what this rank holds of it."""
        if self._is_share_of is None:
            return 0
        hidden, (rows, length) = stream.hidden, self._is_share_of
        return (rows * length - hidden.shape[1]) * hidden.shape[2] * hidden.element_size()

    def all_of(self, share: Tensor, whole: Whole) -> Tensor:
        shares = share.new_empty(self.degree * share.shape[1], share.shape[2])
        return shares[: whole[0] * whole[1]].unflatten(0, whole)

    def share_of_sum(self, partial: Tensor) -> Tensor:
        if self._sums_whole:
            return self.share_of(partial.clone(memory_format=torch.contiguous_format))
        size = -(-partial.shape[0] * partial.shape[1] // self.degree)
        return partial.new_empty(1, size, partial.shape[2])

    def traffic_of_gathers(self, layer: Layer) -> TensorTraffic:
        """A gather behind each norm; back, a reduce-scatter of the gradient and a gather of what was kept as a share.

        Each is half an all-reduce. Those at both ends of a stretch of blocks are left out.
        """
        if layer not in self._layers:
            return TensorTraffic(0, 0, 0)
        columns = [module.num_inputs for module in layer.modules() if isinstance(module, ColumnSlice)]
        gathered = sum(isinstance(module, nn.LayerNorm) for module in layer.modules()) * max(columns)
        return TensorTraffic(summed_forward=gathered // 2, summed_backward=gathered, remade_flops=0)

    def _summed(self, gradient: Tensor) -> Tensor:
        return gradient.clone()
