"""ZeRO 1 and 2 with each rank receiving the sum of its own partition's gradients alone.

DeepSpeed sums all gradients on all ranks (2 n values where n are needed), at stage 2 after every micro-batch, at stage
1 after the last backward pass. Here they are added up over micro-batches where they arise, in fp32 in one flat tensor
for each parameter group, which is a bucket (`hierlm.optim.param_groups.in_buckets`): DeepSpeed divides every group
evenly over the ranks, so each bucket's exchange is balanced, and what lies in files is what it always was.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hierlm.parallel.gradient_buckets import GradientBuckets
from hierlm.parallel.gradient_norm import part_square, partitioned_norm
from hierlm.parallel.groups import Groups
from hierlm.parallel.scatter import Scatter, begin_scatter
from hierlm.parallel.seams.engine import Engine
from hierlm.parallel.seams.optimizers import Bf16Optimizer, Stage12Optimizer
from hierlm.parallel.seams.parameters import mark_padding, own_stretch


def scatter_gradients(engine: Engine, groups: Groups, *, dtype: torch.dtype, is_early: bool) -> None:
    """Put our exchange in the place of DeepSpeed's; gradients travel as `dtype`.

    `is_early`: it may begin in the backward pass of the last micro-batch. Not where other ranks' gradients are still to
    be added to this rank's after it, as with weights tied over pipeline stages.
    """
    kind = _WholeSums if isinstance(engine.optimizer, Bf16Optimizer) else _PartSums
    kind(engine, groups, dtype=dtype, is_early=is_early).install()


class _Sums:
    """What both kinds of DeepSpeed's optimizer have in common."""

    def __init__(self, engine: Engine, groups: Groups, *, dtype: torch.dtype, is_early: bool) -> None:
        self.engine, self.groups, self.optimizer, self._dtype = engine, groups, engine.optimizer, dtype
        self._is_early = is_early
        places = {parameter: place for place, parameter in enumerate(engine.module.parameters())}
        self.buckets = GradientBuckets(self.optimizer.groups, places=places, send=self._send, receive=self.receive)

    def sums(self, bucket: int) -> Tensor:
        """This rank's gradients of a bucket over micro-batches, fp32 and flat, padding included."""
        raise NotImplementedError

    def receive(self, bucket: int, scatter: Scatter) -> None:
        """Put this rank's part of the mean over ranks where the update looks for it."""
        raise NotImplementedError

    def arrived(self, parameter: nn.Parameter) -> None:
        """A gradient has been added."""
        if self._is_early and self.optimizer.is_last_micro_batch():
            self.buckets.arrived(parameter)

    def _send(self, bucket: int) -> Scatter:
        return begin_scatter(self.sums(bucket), group=self.groups.data, dtype=self._dtype)


class _WholeSums(_Sums):
    """Stage 1 in bf16: DeepSpeed adds up in flat fp32 tensors itself, of which the partition is a view."""

    optimizer: Bf16Optimizer

    def install(self) -> None:
        add = self.optimizer.add_gradient

        def add_and_send(lp_param: Any, group_idx: int, param_idx: int) -> None:
            add(lp_param, group_idx, param_idx)
            self.arrived(lp_param)

        self.optimizer.add_gradient = add_and_send
        self.optimizer.get_grads_for_norm = self._for_norm
        self.engine.buffered_allreduce_fallback = lambda grads=None, elements_per_buffer=0: self.buckets.finish()

    def sums(self, bucket: int) -> Tensor:
        found: Tensor = self.optimizer.flat_gradients[bucket]
        return found

    def receive(self, bucket: int, scatter: Scatter) -> None:
        scatter.finish(self.optimizer.gradient_parts[bucket])

    def _for_norm(self, for_clipping: bool = False) -> Any:
        """Of the partition: what is clipped, or one number with the norm that all partitions have together."""
        parts = self.optimizer.gradient_parts
        if for_clipping:
            return list(parts)
        squares = [part_square(*each, self.groups) for each in zip(self.optimizer.groups, parts, strict=True)]
        total = torch.stack(squares).sum()
        dist.all_reduce(total, group=self.groups.data)
        return [total.sqrt()], {}


class _PartSums(_Sums):
    """Stage 1 in fp32, and stage 2: flat tensors live from a step's first gradient to their exchange."""

    optimizer: Stage12Optimizer

    def __init__(self, engine: Engine, groups: Groups, *, dtype: torch.dtype, is_early: bool) -> None:
        super().__init__(engine, groups, dtype=dtype, is_early=is_early)
        self._sums = dict[int, Tensor]()
        self._first_value = {
            parameter: (parameter.data_ptr() - flat.data_ptr()) // flat.element_size()
            for parameters, flat in zip(self.optimizer.groups, self.optimizer.flat_weights, strict=True)
            for parameter in parameters
        }

    def install(self) -> None:
        self.optimizer.process_gradients = self._add
        self.optimizer.reduce_gradients = lambda pipeline_parallel=False: self.buckets.finish()
        self.optimizer.end_of_backward = self._end_of_backward
        self.optimizer.scaled_global_norm = lambda norm_type=2: partitioned_norm(self.optimizer, self.groups)

    def sums(self, bucket: int) -> Tensor:
        if bucket not in self._sums:
            self._sums[bucket] = torch.zeros_like(self.optimizer.flat_weights[bucket], dtype=torch.float32)
        return self._sums[bucket]

    def receive(self, bucket: int, scatter: Scatter) -> None:
        owner = self.optimizer.owners[bucket]
        part = torch.empty(owner.numel(), device=self._sums[bucket].device)
        scatter.finish(part)
        del self._sums[bucket]
        for parameter in self.optimizer.groups[bucket]:
            parameter.grad = None
        self.optimizer.averaged_gradients[bucket] = Partition(part, self.optimizer.params_in_partition[bucket])
        if self.optimizer.cpu_offload:
            owner.grad.copy_(part)

    def _add(self, param: Any, i: int) -> None:
        """Called when a micro-batch's gradient of `param`, of group `i`, is there."""
        if param.grad is None:
            return
        first = self._first_value[param]
        place = self.sums(i)[first : first + param.numel()].view_as(param)
        if param.grad.data_ptr() != place.data_ptr():
            place.add_(param.grad)
            # in fp32 the next micro-batch's is added here by autograd itself
            param.grad = place if param.grad.dtype == place.dtype else None
        self.arrived(param)

    def _end_of_backward(self) -> None:
        """Stage 2 comes by after every micro-batch."""
        if self.optimizer.is_last_micro_batch():
            self.buckets.finish()


class Partition(list[Tensor]):
    """The gradients of what a rank updates, parameter by parameter, in one flat tensor: what `step` takes."""

    def __init__(self, flat_partition: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        self.flat_partition = flat_partition  # by this name DeepSpeed finds that it has nothing to copy together
        end = 0
        for parameter in parameters:
            stretch = own_stretch(parameter)
            assert stretch is not None and stretch.owner_start == end, "partitions are laid out otherwise"
            end += stretch.numel
            self.append(flat_partition[stretch.owner_start : end])
        if end < flat_partition.numel():
            self.append(mark_padding(flat_partition[end:]))
