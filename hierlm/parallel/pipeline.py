"""Pipeline parallelism: DeepSpeed's PipelineModule over the layer list, cut where we say.

Parameters keep their canonical names `layers.<index>.<name>`; a stage that borrows a tied weight calls it by its
owner's name, so that a checkpoint looks the same with and without a pipeline.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hierlm.models.assembly import layer_specs, shared_weights
from hierlm.models.config import ModelConfig
from hierlm.models.weightless import alone
from hierlm.nn.draws import DrawKey
from hierlm.nn.layer import Layer, SharedWeights, StepContext
from hierlm.nn.stream import Stream
from hierlm.parallel.boundary import Packer, Parts, Payload, Unpacker
from hierlm.parallel.degrees import AXES
from hierlm.parallel.groups import Groups
from hierlm.parallel.layer_losses import beside, joined, weighted_loss
from hierlm.parallel.loss import LossEnd
from hierlm.parallel.memory_lanes import MemoryLanes
from hierlm.parallel.micro_batch import MicroBatch
from hierlm.parallel.recompute import Recompute, run_layers
from hierlm.parallel.report_totals import ReportTotals
from hierlm.parallel.seams.parameters import mark_copy
from hierlm.parallel.seams.stages import StagedModule, Tied
from hierlm.parallel.sequence import TokenShares
from hierlm.parallel.skipped_steps import spoiling_if_not_finite
from hierlm.parallel.stage_model import build_stage, set_parameter
from hierlm.parallel.weighting import Counting, part_of_loss


class Pipeline(StagedModule):
    """The layers of this rank's stage; the last stage ends in the loss."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        seed: int,
        boundaries: Sequence[int],
        groups: Groups,
        recompute: Recompute,
        shares: TokenShares | None = None,
        loss_chunk_tokens: int | None = None,
        z_loss: float = 0.0,
    ) -> None:
        self.boundaries, self.groups, self.recompute, self.shares = tuple(boundaries), groups, recompute, shares
        self._config, self._seed = config, seed
        self._draws: DrawKey | None = None
        self._lanes: MemoryLanes | None = None
        self._micro_index = 0
        self._batches: Sequence[MicroBatch] = ()
        self._reports: ReportTotals | None = None
        self._scale: Tensor | None = None
        self._added: Tensor | None = None  # to the loss of the micro-batch that is on its way through the last stage
        parts = Parts(groups.tensor) if groups.degrees["tensor"] > 1 else None
        self._packer, self._unpacker = Packer(parts), Unpacker(parts)
        self._shapers = _layers_that_draw_shapes(config)
        super().__init__(boundaries=boundaries, stage=groups.pp_rank, degrees=groups.degrees, loss=self._loss)
        is_last = groups.is_last_stage
        self._end = LossEnd(
            self.local_layers,
            chunk_tokens=loss_chunk_tokens if is_last else None,
            z_loss=z_loss if is_last else 0.0,
        )

    def begin_step(self, context: StepContext) -> None:
        """Layers of this stage, and those of others that draw shapes, take the switches and draws of a step."""
        for layer in (*self.local_layers.values(), *self._shapers):
            layer.begin_step(context)

    def drawn_shapes(self, *, training: bool) -> tuple[object, ...]:
        """What the present step's draws, on whatever stage, say of the shapes that travel in such a pass."""
        return tuple(layer.train(training).drawn_shape for layer in self._shapers)

    def begin_pass(
        self,
        micro_batches: Sequence[MicroBatch],
        *,
        draws: DrawKey | None,
        lanes: MemoryLanes,
        reports: ReportTotals,
        scale: Tensor | None = None,
    ) -> None:
        """Before the micro-batches of one step or evaluation: `draws` is the first one's, None for no random draws.

        `scale`: of their losses, where targets count unequally (`hierlm.parallel.weighting`).

        Every stage has them all, so that what they say of their rows is at hand wherever a layer stands.
        """
        self._draws, self._lanes, self._micro_index = draws, lanes, 0
        self._batches, self._reports, self._scale = micro_batches, reports, scale

    def forget_shapes(self) -> None:
        """What travels in the next pass has other shapes than before."""
        self._unpacker.forget()

    def forward(self, payload: Payload) -> Payload:
        """One micro-batch through this stage: tokens int64 [B, T] into the first, what the loss takes out of the last.

        Every stage meets the micro-batches in the same order, so counting them is enough to know which one this is.
        """
        assert self._lanes is not None and self._reports is not None, "begin_pass comes first"
        micro_index, self._micro_index = self._micro_index, self._micro_index + 1
        batch = self._batches[micro_index]
        stream = Stream(self._unpacker.unpack(payload), batch.inputs)
        memories = self._lanes.get(micro_index, num_rows=stream.hidden.shape[0])
        draw_key = self._draws_of(micro_index, num_rows=stream.hidden.shape[0])
        num_layers = len(self._end.layers)
        stream, updated = run_layers(
            self._end.layers,
            stream,
            memories[:num_layers],
            draw_key=draw_key,
            recompute=self.recompute,
            shares=self.shares,
        )
        self._lanes.put(micro_index, updated + memories[num_layers:])
        self._reports.add(stream.reports, rows=None if self.training else batch.real_rows)
        added = weighted_loss(stream.reports) if self.training else None
        if self.groups.is_last_stage:
            self._added = added
            return stream.output
        return joined(self._packer.pack(stream), added, share=1 / len(self._batches))

    def _draws_of(self, micro_index: int, *, num_rows: int) -> DrawKey | None:
        if self._draws is None:
            return None
        seed, step, first_row = self._draws
        return seed, step, first_row + micro_index * num_rows

    def build(self, stage: range) -> list[nn.Module]:
        built = build_stage(
            self._config,
            seed=self._seed,
            stage=stage,
            groups=self.groups,
        )
        if self.shares is not None:
            self.shares.take(built.layers)
        self.local_layers = built.layers
        self.layers = nn.ModuleDict()
        for parameter in (p for layer in built.layers.values() for p in layer.parameters()):
            mark_copy(parameter, False)
        for weight in built.borrowed:  # first, for the first name of a parameter is the one that counts
            set_parameter(self, weight.canonical_name, weight.weight)
            mark_copy(weight.weight, True)  # counted once in the gradient norm: where its owner lives
        for index, layer in built.layers.items():
            self.layers.add_module(str(index), layer)
        return list(built.layers.values())

    def tied_over_stages(self) -> Tied:
        return _tied_over_stages(self.local_layers, shared_weights(self._config), self.boundaries, self.groups)

    def _loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Training: this micro-batch's part of the loss, nats per token, beside it the gradient of layers report.

        Evaluation: every token's nats [B, T], 0 where the target is negative.
        """
        batch = self._batches[self._micro_index - 1]
        nats, reports = self._end.losses(hidden, targets, counting=Counting(batch.weights, self._scale))
        assert self._reports is not None
        self._reports.add(reports, rows=None if self.training else batch.real_rows)
        if not self.training:
            return nats
        part = part_of_loss(nats, batch.weights, self._scale)
        return spoiling_if_not_finite(beside(beside(part, self._added), weighted_loss(reports)))


def _layers_that_draw_shapes(config: ModelConfig) -> tuple[Layer, ...]:
    """The layers of all stages whose draws change what travels, without weights: draws are keyed, so every rank can
    follow them, and no message is needed to learn that other shapes are on their way, also where a rank only forwards.
    """
    specs, device = layer_specs(config), torch.device("meta")
    layers = (alone(spec, index=index, device=device) for index, spec in enumerate(specs))
    return tuple(layer for layer in layers if layer.drawn_shape is not None)


def _tied_over_stages(
    layers: Mapping[int, Layer], shares: Sequence[SharedWeights], boundaries: Sequence[int], groups: Groups
) -> Tied:
    """This rank's weights that other stages hold too, with the ranks that hold the same slice of them.

    Every rank makes every group, in the same order: making a group is a collective call.
    """
    tied = []
    for (owner, owner_parameter), users in _by_owner(shares).items():
        stages = sorted({_stage_of(index, boundaries) for index in (owner, *users)})
        if len(stages) == 1:
            continue
        group = _group_over_stages(stages, groups)
        held = {owner: owner_parameter, **users}
        mine = next((index for index in held if index in layers), None)
        if mine is not None:
            tied.append((layers[mine].get_parameter(held[mine]), group))
    return tied


def _by_owner(shares: Sequence[SharedWeights]) -> dict[tuple[int, str], dict[int, str]]:
    """(owner, its parameter) -> user -> its parameter."""
    users: dict[tuple[int, str], dict[int, str]] = {}
    for share in shares:
        users.setdefault((share.owner, share.owner_parameter), {})[share.user] = share.user_parameter
    return users


def _stage_of(index: int, boundaries: Sequence[int]) -> int:
    return bisect_right(boundaries, index) - 1


def _group_over_stages(stages: Sequence[int], groups: Groups) -> dist.ProcessGroup:
    """This rank's group among those that join `stages` at each place of the other axes."""
    degrees, mine = groups.degrees, None
    for place in degrees.places([axis for axis in AXES if axis != "pipeline"]):
        group = dist.new_group([degrees.rank_at(place.replaced(pipeline=stage)) for stage in stages])
        if place == groups.place.replaced(pipeline=0):
            mine = group
    assert mine is not None
    return mine
