"""What each layer keeps for the backward pass and needs on the way, seen by running the layer list once there and back.

The stage is built, sliced and run by `hierlm.parallel`, as it is, on the first rank of groups whose peers are absent.
It runs on the meta device, so nothing is allocated and the size does not matter. Layers whose shapes depend on the data
cannot run there: such a model runs on one row of random tokens, and more rows are taken for as many times that.

Shapes: B rows of a micro-batch, T tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import hierlm.parallel.light_megatron  # noqa: F401 - before anything else imports megatron-core
from hierlm.models.assembly import input_specs, layer_specs, shared_weights
from hierlm.models.config import ModelConfig
from hierlm.models.weightless import built_on
from hierlm.nn.inputs import neutral
from hierlm.nn.kernels.target import standing_for
from hierlm.nn.layer import Layer, SharedWeights, StepContext
from hierlm.parallel.absent_peers import without_peers
from hierlm.parallel.degrees import Degrees
from hierlm.parallel.groups import Groups
from hierlm.parallel.loss_module import LossModule
from hierlm.parallel.recompute import Recompute
from hierlm.parallel.sequence import TokenShares
from hierlm.parallel.stage_model import build_stage
from hierlm.phases.config import PhaseConfig
from hierlm.plan.footprint import Borrowed, Footprint, LayerWeights, Profile, TensorTraffic
from hierlm.plan.representatives import representatives
from hierlm.plan.trace import Trace

NEEDS_DATA = ("meta", "cached during selective activation checkpoint has been mutated")
"""What torch says where tensors without data will not do; the latter of an LSTM: they take it apart into steps that
write over what selective recompute keeps, where a device has one kernel."""


@dataclass(frozen=True)
class Setting:
    """What decides a profile."""

    model: ModelConfig
    phase: PhaseConfig
    rows: int
    tp_degree: int
    recompute: Recompute
    bf16: bool
    on_gpu: bool
    sequence_parallel: bool = False
    loss_chunk_tokens: int | None = None

    @property
    def shares_tokens(self) -> bool:
        """Whether there is somebody to share with."""
        return self.sequence_parallel and self.tp_degree > 1

    @property
    def target(self) -> str:
        """The kind of device that tensors without data stand for."""
        return "cuda" if self.on_gpu else "cpu"

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal where the profile of one model is."""
        of_phase = (self.phase.sequence_length, repr(sorted(self.phase.model.items())))
        of_layout = (self.recompute, self.bf16, self.on_gpu, self.sequence_parallel, self.loss_chunk_tokens)
        return (*of_phase, self.rows, self.tp_degree, *of_layout)


def profile(setting: Setting) -> Profile:
    """Run the layer list of a setting; ValueError where the tensor degree does not divide a width."""
    try:
        return _run(setting, device=torch.device("meta"), rows=setting.rows)
    except RuntimeError as error:
        if not any(words in str(error).lower() for words in NEEDS_DATA):
            raise
    one = _run(setting, device=torch.device("cpu"), rows=1)
    return replace(one.extrapolated(_nothing(one), at=(1, 0), rows=setting.rows), is_extrapolated=True)


def _nothing(like: Profile) -> Profile:
    """The profile of no rows."""
    return replace(
        like,
        layers=tuple(Footprint(0, 0, 0, 0, 0, 0, 0, kernels=layer.kernels) for layer in like.layers),
        traffic=tuple(TensorTraffic(0, 0, 0) for _ in like.traffic),
        logits=0,
        left_at_loss=0,
        loss_made=0,
        loss_peak=0,
    )


def _run(setting: Setting, *, device: torch.device, rows: int) -> Profile:
    specs, shared = layer_specs(setting.model), shared_weights(setting.model)
    chosen = representatives(specs)
    run = sorted({*chosen, *(share.owner for share in shared)})
    with without_peers(Degrees(tensor=setting.tp_degree)) as groups, standing_for(setting.target):
        shares = TokenShares(groups, exchanges=not setting.on_gpu) if setting.shares_tokens else None
        module = _module(setting, run, shares=shares, groups=groups, device=device)
        trace = Trace(module, shares=shares, groups=groups, ends_in_loss=setting.loss_chunk_tokens is not None)
        trace.there_and_back(neutral(input_specs(setting.model), _tokens(setting, rows, device)))
    weights = _weights(module.local_layers, shared)
    return Profile(
        layers=tuple(trace.footprint(index) for index in chosen),
        weights=tuple(weights[index] for index in chosen),
        traffic=tuple(trace.traffic(index) for index in chosen),
        logits=0 if setting.loss_chunk_tokens else trace.left_at_loss,
        left_at_loss=trace.left_at_loss,
        loss_made=trace.loss_made,
        loss_kernels=trace.loss_kernels,
        loss_peak=trace.loss_peak,
        is_extrapolated=False,
    )


def _module(
    setting: Setting, run: Sequence[int], *, shares: TokenShares | None, groups: Groups, device: torch.device
) -> LossModule:
    """As a run's engine builds it, of some of the layers, on the first rank of the groups."""
    with built_on(device):
        layers = build_stage(setting.model, seed=0, stage=run, groups=groups).layers
    module = LossModule(
        layers,
        recompute=setting.recompute,
        shares=shares,
        loss_chunk_tokens=setting.loss_chunk_tokens,
        z_loss=getattr(setting.model, "z_loss", 0.0),
    ).to(device)
    module.bfloat16() if setting.bf16 else module
    module.train()
    module.begin_step(_context(setting))
    return module


def _tokens(setting: Setting, rows: int, device: torch.device) -> Tensor:
    """int64 [B, T], random ones where there is data."""
    tokens = torch.zeros(rows, setting.phase.sequence_length, dtype=torch.int64, device=device)
    if device.type == "meta":
        return tokens
    return tokens.random_(setting.model.vocab_size, generator=torch.Generator().manual_seed(0))


def _context(setting: Setting) -> StepContext:
    model = setting.model
    own = {name: getattr(model, name) for name in model.train_switches()}
    return StepContext(0, 0, {**own, **setting.phase.model})


def _weights(layers: Mapping[int, Layer], shares: Sequence[SharedWeights]) -> dict[int, LayerWeights]:
    found = {}
    for index, layer in layers.items():
        sizes = {name: p.numel() for name, p in layer.named_parameters(remove_duplicate=False)}
        borrowed = tuple(
            Borrowed(share.owner, share.owner_parameter, sizes[share.user_parameter])
            for share in shares
            if share.user == index
        )
        found[index] = LayerWeights(
            own=sum(sizes.values()) - sum(weight.values for weight in borrowed),
            borrowed=borrowed,
            largest=max(sizes.values(), default=0),
        )
    return found
