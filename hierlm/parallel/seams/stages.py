"""DeepSpeed's pipeline module as a base class: layers are cut, built and tied by the methods of ours it calls.

Its own would cut by parameters, build every layer by itself and tie whole modules.
"""

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist
from torch import nn

from hierlm.parallel.degrees import Degrees
from hierlm.parallel.seams import deepspeed_names as deepspeed
from hierlm.parallel.seams.handle import Handle, Method, Replaced, overrides

Call = Callable[..., Any]
Tied = list[tuple[nn.Parameter, dist.ProcessGroup]]


class StageHooks(Handle):
    """What its constructor and its engine call."""

    of = "deepspeed.runtime.pipe.module.PipelineModule"

    partition_layers = Replaced[Call]("it cuts by parameters", takes=("method",), name="_partition_layers")
    build = Replaced[Call]("it builds and seeds every layer by itself", takes=(), name="_build")
    index_tied_modules = Replaced[Call]("it ties whole modules", takes=(), name="_index_tied_modules")
    get_tied_weights_and_groups = Replaced[Call]("it ties whole modules", takes=())
    forward = Replaced[Call]("it knows neither memories nor draws", takes=("forward_input",))
    set_bounds = Method[Call]("it is told which layers are here", name="_set_bounds")
    mpu = Method[Call]("the engine takes this rank's place in the layout from it")


@overrides(StageHooks)
class StagedModule(deepspeed.PipelineModule):
    """The stages of a pipeline, cut at `boundaries`; a subclass says what a stage holds."""

    def __init__(self, *, boundaries: Sequence[int], stage: int, degrees: Degrees, loss: Callable[..., Any]) -> None:
        """Layers `boundaries[stage]` to `boundaries[stage + 1]` are here; `loss` of what the last stage leaves."""
        self._parts, self._stage = list(boundaries), stage
        topology = deepspeed.PipeModelDataParallelTopology(
            num_pp=degrees["pipeline"], num_mp=degrees["tensor"], num_dp=degrees["data"]
        )
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the cut, which we do ourselves
            super().__init__(layers=range(boundaries[-1]), topology=topology, loss_fn=loss)

    def build(self, stage: range) -> list[nn.Module]:
        """Make and register the layers of this stage."""
        raise NotImplementedError

    def tied_over_stages(self) -> Tied:
        """Weights of this rank that other stages hold too, with the ranks that do. Every rank calls it."""
        raise NotImplementedError

    def get_tied_weights_and_groups(self) -> Tied:
        """DeepSpeed sums the gradients of these over their groups before it reduces and steps."""
        return self._tied

    def _partition_layers(self, method: str = "uniform") -> None:
        self.parts = self._parts
        self._set_bounds(start=self.parts[self._stage], stop=self.parts[self._stage + 1])

    def _build(self) -> None:
        self.forward_funcs = self.build(range(self.parts[self._stage], self.parts[self._stage + 1]))

    def _index_tied_modules(self) -> dict[str, object]:
        self._tied = self.tied_over_stages()
        return {}
