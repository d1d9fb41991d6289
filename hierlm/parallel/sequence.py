"""Sequence parallelism (Korthikanti et al. 2022, 2205.05198, section 4.2.2), put around blocks from outside.

Between the sliced products of a block (norms, dropout, residual sums) every tensor-parallel rank would do the same work
and keep the same activations. Here each does it for its share of the tokens: a gather before the sliced products, and
in place of the sum over ranks behind them a sum of which each rank gets its share. What a sliced product keeps for the
backward pass is the share too, gathered again when it is needed. What norms, and biases behind a sum, get of their
gradient is that of a share of the tokens: the parts of all of them are added up in one message a step
(`hierlm.parallel.share_gradients`).

gloo's reduce-scatter moves twice what must be moved; there ranks exchange parts and each adds up its own, in fp32.
megatron-core's own collectives for this allocate on a CUDA device; these run wherever the process group does.

Shapes: B batch, T tokens of the level, D hidden_dim, n = ceil(B*T / degree) tokens of a share, the last ones padding.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from hierlm.errors import UserError
from hierlm.nn.basic.block import Block
from hierlm.nn.basic.dropout import Dropout
from hierlm.nn.basic.normalisation import VectorNorm
from hierlm.nn.layer import Layer
from hierlm.nn.shape import Rate
from hierlm.nn.stream import Stream
from hierlm.parallel.seams.parameters import is_slice, is_summed
from hierlm.parallel.seams.torch_private import storage_key

if TYPE_CHECKING:
    from hierlm.parallel.groups import Groups
    from hierlm.parallel.tensor import SlicedColumn

Whole = tuple[int, int]
"""B, T of the sequences that are shared out."""


class TokenShares:
    """Which layers work on shares, and how whole sequences become shares and back."""

    def __init__(self, groups: "Groups", *, exchanges: bool | None = None) -> None:
        """`exchanges`: the backend is better asked for all parts of a sum than for the sum; None asks the backend."""
        self.group, self.degree, self.tp_rank = groups.tensor, groups.degrees["tensor"], groups.tp_rank
        self._exchanges = dist.get_backend(self.group) == "gloo" if exchanges is None else exchanges
        self.seen_in_parts: list[nn.Parameter] = []
        """Whole weights of which each rank makes the gradient of its tokens."""
        self._layers: set[Layer] = set()
        self._whole: Whole = (0, 0)  # of the layer that is running
        self.keeps_shares = True
        self._gathered: list[tuple[Tensor, Tensor]] = []  # of the layer that is running: (whole, share)
        self._last_gathered_again: tuple[Tensor, Tensor] | None = None

    def take(self, layers: Mapping[int, Layer]) -> None:
        """Make those of the sliced `layers` that can work on shares; UserError when none can."""
        for layer in layers.values():
            if isinstance(layer, Block) and layer.order == "pre" and _only_slices_see_tokens(layer):
                self._share_out(layer)
                self._layers.add(layer)

    def works_on(self, layer: Layer) -> bool:
        """Whether `layer` is given a share."""
        return layer in self._layers

    def sum_as_made(self) -> None:
        """Add up each gradient that is seen in parts when it is made: afterwards it may be on the host."""
        for parameter in self.seen_in_parts:
            parameter.register_hook(self._summed)
        self.seen_in_parts.clear()

    def _summed(self, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total, group=self.group)
        return total

    def require_some(self, pipeline: dist.ProcessGroup) -> None:
        """UserError where no layer of any stage can work on shares; every rank calls it."""
        counts: list[Any] = [None] * dist.get_world_size(pipeline)
        dist.all_gather_object(counts, len(self._layers), group=pipeline)
        if not any(counts):
            raise UserError(
                "parallel.sequence_parallel: given true, allowed: false, because no layer of this model can share out "
                "its tokens; it takes blocks without memory whose norm comes first"
            )

    def before(self, layer: Layer, stream: Stream, whole: Whole | None) -> tuple[Stream, Whole | None]:
        """The stream as `layer` wants it; `whole` says of what its top is a share, None if it is no share."""
        is_wanted = layer in self._layers
        if is_wanted and whole is None:
            batch, length, _ = stream.hidden.shape
            return stream.with_hidden(_Split.apply(stream.hidden, self)), (batch, length)
        if whole is not None and not is_wanted:
            return self.joined(stream, whole), None
        return stream, whole

    def joined(self, stream: Stream, whole: Whole) -> Stream:
        """The stream with its top whole again, the same on every rank."""
        self._whole = whole
        return stream.with_hidden(_Join.apply(stream.hidden, self, whole))

    @contextmanager
    def running(self, whole: Whole, *, keeps_shares: bool) -> Iterator[None]:
        """Around a layer that works on shares. Recompute keeps nothing of a layer, so it needs no `keeps_shares`."""
        self._whole, self.keeps_shares = whole, keeps_shares
        try:
            if keeps_shares and torch.is_grad_enabled():
                with torch.autograd.graph.saved_tensors_hooks(self._kept, self._gathered_again):
                    yield
            else:
                yield
        finally:
            self._gathered.clear()

    def share_of(self, rows: Tensor) -> Tensor:
        """[B, T, ...] -> this rank's tokens [1, n, ...], which keep nothing of the others alive."""
        flat = rows.flatten(0, 1)
        size = self._size(rows.shape)
        own = flat[self.tp_rank * size : (self.tp_rank + 1) * size]
        missing = (0, 0) * (flat.dim() - 1) + (0, size - len(own))
        return (F.pad(own, missing) if len(own) < size else own.clone()).unsqueeze(0)

    def all_of(self, share: Tensor, whole: Whole) -> Tensor:
        """[1, n, D] of every rank -> [B, T, D]."""
        shares = share.new_empty(self.degree * share.shape[1], share.shape[2])
        dist.all_gather_into_tensor(shares, share[0].contiguous(), group=self.group)
        return shares[: whole[0] * whole[1]].unflatten(0, whole)

    def share_of_sum(self, partial: Tensor) -> Callable[[], Tensor]:
        """[B, T, D] of every rank, to be summed: sent off. The call waits for this rank's tokens [1, n, D]."""
        size = self._size(partial.shape)
        flat = partial.flatten(0, 1)
        if len(flat) < size * self.degree:
            flat = F.pad(flat, (0, 0, 0, size * self.degree - len(flat)))
        flat = flat.contiguous()
        if self._exchanges:
            parts = torch.empty_like(flat)
            work = dist.all_to_all_single(parts, flat, group=self.group, async_op=True)
        else:
            parts = flat.new_empty(size, flat.shape[1])
            work = dist.reduce_scatter_tensor(parts, flat, group=self.group, async_op=True)

        def arrived() -> Tensor:
            work.wait()
            return parts.unflatten(0, (-1, size)).sum(0, keepdim=True) if self._exchanges else parts.unsqueeze(0)

        return arrived

    def _size(self, shape: Sequence[int]) -> int:
        """n."""
        return -(-shape[0] * shape[1] // self.degree)

    def gather(self, share: Tensor, columns: Sequence["SlicedColumn"]) -> Tensor:
        """[1, n, D] -> [B, T, D], for products each rank does a slice of; the gradients are summed."""
        if not columns:
            return share
        weights = [column.weight for column in columns]
        whole = columns[0].inputs.enter(share, _SharedInputs(self, self._whole), weights)
        self._gathered.append((whole, share.detach()))
        return whole

    def sum_of(self, partial: Tensor) -> Tensor:
        """[B, T, D], a part of the sum on each rank -> [1, n, D] of the sum."""
        share: Tensor = _ShareOfSum.apply(partial, self, self._whole)
        return share

    def whole_shape(self, width: int) -> tuple[int, int, int]:
        """B, T, D of what the running layer has a share of."""
        return (*self._whole, width)

    def _share_out(self, block: Block) -> None:
        for name, module in list(block.named_modules()):
            if hasattr(module, "sum_over_ranks"):  # a row slice
                module.sum_over_ranks = self.sum_of
                self.seen_in_parts += [] if module.bias is None else [module.bias]
            elif isinstance(module, VectorNorm):
                columns = _columns(block.get_submodule(name.removesuffix("_norm")))
                module.register_forward_hook(lambda norm, inputs, output, of=columns: self.gather(output, of))
                self.seen_in_parts += module.parameters()
            elif isinstance(module, Dropout) and module.cut_dim is None:  # what is cut sees whole sequences
                block.set_submodule(name, _DropoutOnShare(module, self))

    def _kept(self, tensor: Tensor) -> Any:
        """What is kept for the backward pass: of a gathered tensor the share it came from."""
        storage = storage_key(tensor)
        for gathered, share in self._gathered:
            if storage_key(gathered) == storage:
                return share, self._whole, tensor.shape
        return tensor

    def _gathered_again(self, kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        share, whole, shape = kept
        if self._last_gathered_again is None or self._last_gathered_again[0] is not share:
            self._last_gathered_again = (share, self.all_of(share, whole))  # queries, keys and values ask one by one
        return self._last_gathered_again[1].view(shape)


class _SharedInputs:
    """The door (`hierlm.parallel.column_inputs`) where every rank holds a share of the tokens."""

    def __init__(self, shares: TokenShares, whole: Whole) -> None:
        self._shares, self._whole, self._keeps_share = shares, whole, shares.keeps_shares

    def enter(self, x: Tensor) -> Tensor:
        return self._shares.all_of(x, self._whole)

    def kept(self, x: Tensor, entered: Tensor) -> Tensor:
        return x if self._keeps_share else entered

    def entered_again(self, kept: Tensor) -> Tensor:
        return self._shares.all_of(kept, self._whole) if self._keeps_share else kept

    def leave(self, gradient: Tensor) -> Callable[[], Tensor]:
        return self._shares.share_of_sum(gradient)


class _DropoutOnShare(Dropout):
    """Drops of a share [1, n, D] what the whole [B, T, D] would lose there."""

    def __init__(self, site: Dropout, shares: TokenShares) -> None:
        super().__init__(Rate(site.rate, site.switch))
        self.number, self._shares = site.number, shares

    def kept(self, shape: Sequence[int], *, like: Tensor) -> Tensor:
        return self._shares.share_of(super().kept(self._shares.whole_shape(shape[-1]), like=like))


def _columns(module: nn.Module) -> "list[SlicedColumn]":
    """What is marked by having `beside`: a slice of a weight's rows."""
    columns: list[Any] = [column for column in module.modules() if hasattr(column, "beside")]
    return columns


def _only_slices_see_tokens(block: Block) -> bool:
    """Whether all weights but those of norms and of biases behind a sum are slices: gradients then come in parts."""
    inside = [module for name, module in block.named_children() if not name.endswith("norm")]
    after_sum = {id(m.bias) for m in block.modules() if hasattr(m, "sum_over_ranks")}
    weights = [p for module in inside for p in module.parameters() if id(p) not in after_sum]
    return all(is_slice(weight) or is_summed(weight) for weight in weights)


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, shares: TokenShares) -> Tensor:
        ctx.shares, ctx.whole = shares, (rows.shape[0], rows.shape[1])
        return shares.share_of(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.shares.all_of(gradient, ctx.whole), None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, share: Tensor, shares: TokenShares, whole: Whole) -> Tensor:
        ctx.shares = shares
        return shares.all_of(share, whole)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.shares.share_of(gradient), None, None


class _ShareOfSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, shares: TokenShares, whole: Whole) -> Tensor:
        ctx.shares, ctx.whole = shares, whole
        return shares.share_of_sum(partial)()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.shares.all_of(gradient, ctx.whole), None, None
