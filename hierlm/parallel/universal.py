"""Any layout to any other: what a checkpoint must say about its parameters, and loading DeepSpeed's universal format.

The format is one folder per canonical parameter name with full fp32 tensors (`hierlm.checkpoint.universal` writes it).
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hierlm.checkpoint.blocks import MEMORY_BYTES
from hierlm.checkpoint.canonical import different_names, require_known_names
from hierlm.checkpoint.engine_files import OPTIMIZER_NAMES, PARAMETER_SLICES, STATE_NAMES, TENSOR_DEGREE, WEIGHTS
from hierlm.checkpoint.tensor_file import Mapped, give_back, read_mapping, read_tensors
from hierlm.checkpoint.universal import NAMES
from hierlm.errors import UserError
from hierlm.optim.phased import Phased
from hierlm.optim.state_names import StateNames
from hierlm.parallel.seams.deepspeed_names import (
    CAT_DIM,
    ORIGINAL_VOCAB_SIZE,
    PARAM,
    PARAMETER_WITH_ROW_PARALLELISM_PATTERNS,
    TP_REPLICATED_PARAMETER_PATTERNS,
    UNIVERSAL_CHECKPOINT_INFO,
    UNIVERSAL_CHECKPOINT_VERSION_KEY,
    UNIVERSAL_CHECKPOINT_VERSION_VALUE,
    VOCABULARY_PARAMETER_PATTERNS,
)
from hierlm.parallel.seams.optimizers import Stage3Optimizer
from hierlm.parallel.seams.parameters import own_share, own_stretch, whole_shape
from hierlm.parallel.shared_heads import SharedHeads
from hierlm.parallel.tensor import SlicedRow
from hierlm.parallel.tensor_plan import TensorPlan, rule_for

INFO = UNIVERSAL_CHECKPOINT_INFO
"""Key of `universal_info` in the client state."""

SLICES = PARAMETER_SLICES
"""Key, in `universal_info`, of how each parameter of the whole model is cut."""

MODEL_FILE = "mp_rank_00_model_states.pt"
"""Counters and client state of a universal checkpoint."""

PATTERNS_OF = {
    "vocabulary": VOCABULARY_PARAMETER_PATTERNS,
    "row": PARAMETER_WITH_ROW_PARALLELISM_PATTERNS,
    "replicate": TP_REPLICATED_PARAMETER_PATTERNS,
}
"""DeepSpeed's lists by the tensor plan's words; `column`, the first dimension, is what it assumes of all others."""


def universal_info(
    module: nn.Module,
    optimizer: Phased,
    *,
    plan: TensorPlan,
    vocab_size: int,
    pipeline: dist.ProcessGroup,
    tp_degree: int,
) -> dict[str, Any]:
    """What goes into a checkpoint's client state under `INFO`. Every rank calls it.

    Call it before DeepSpeed takes the optimizer: ZeRO replaces the parameters in its groups. Patterns match exactly one
    live name each, because DeepSpeed refuses a pattern that matches nothing; they are those of all stages, because its
    converter reads them from the first stage's file alone.
    """
    name_of = {id(parameter): name for name, parameter in module.named_parameters()}
    names = [[name_of[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    rules = _of_all_stages({name: _slice_rule(module, name, plan) for group in names for name in group}, pipeline)
    return {
        UNIVERSAL_CHECKPOINT_VERSION_KEY: UNIVERSAL_CHECKPOINT_VERSION_VALUE,
        ORIGINAL_VOCAB_SIZE: vocab_size,
        **{key: _patterns(name for name, rule in rules.items() if rule == word) for word, key in PATTERNS_OF.items()},
        OPTIMIZER_NAMES: names,
        STATE_NAMES: optimizer.state_names.model_dump(),
        SLICES: rules,
        TENSOR_DEGREE: tp_degree,
    }


def require_names(info: Mapping[str, Any], names: Iterable[str]) -> None:
    """What all stages hold together are exactly the model's parameters: RuntimeError before a step is made.

    A stage that called a copy of its own what no other layout has would train and save it, and nobody could load that.
    """
    if different := different_names(info[SLICES], names):
        raise RuntimeError(f"the pipeline's stages hold other parameters than the model: {different}. This is a bug")


def _of_all_stages(rules: dict[str, str], pipeline: dist.ProcessGroup) -> dict[str, str]:
    stages: list[Any] = [None] * dist.get_world_size(pipeline)
    dist.all_gather_object(stages, rules, group=pipeline)
    return {name: rule for stage in stages for name, rule in stage.items()}


def _slice_rule(module: nn.Module, name: str, plan: TensorPlan) -> str:
    """How the values are cut: the plan's rule, except where it speaks of gradients or of the weight beside a bias."""
    rule = rule_for(plan, name)
    holder, _, own_name = name.rpartition(".")
    is_bias = own_name == "bias" and isinstance(module.get_submodule(holder), nn.Linear | SlicedRow)
    is_shared = isinstance(module.get_submodule(holder), SharedHeads)
    return "replicate" if rule == "partial" or is_shared or (rule == "row" and is_bias) else rule


def load_universal(
    engine: Any, directory: Path, *, names: Iterable[str], memory_bytes: int = MEMORY_BYTES
) -> dict[str, Any]:
    """Load a universal checkpoint's folder into a fresh engine of any layout; its client state. Every rank calls it.

    `names` are the model's; UserError where the folder holds others: what this layout does not look for is not lost
    without a word.

    Our own loader: DeepSpeed's leaves out ZeRO 0, fails on a rank that owns only padding, gives all groups of ZeRO 3
    one step count (which is then counted up once per group) and knows nothing of tensor slices there.
    Hyperparameters of the optimizer stay those of the engine: they come from config and step. A rank reads its own
    stretch of each file, `memory_bytes` at a time.
    """
    optimizer: Phased = engine.basic_optimizer
    zero, model = directory / "zero", _model_state(directory)
    common = read_mapping(zero / "optimizer_state.pt")
    require_known_names(_names_in(zero, common), names, where=directory.parent)
    _require_same_optimizer(model, optimizer, where=directory.parent)
    counts = common["optimizer_state_dict"]["state"][0]
    for owner in _owners(engine):
        states = {state: torch.zeros_like(owner) for state in optimizer.state_names.states}
        optimizer.state[owner] = {**{c: n.to(owner.device, copy=True) for c, n in counts.items()}, **states}
    for home in homes(engine):
        state = {WEIGHTS: home.owner.data, **optimizer.state[home.owner]}
        for count in optimizer.state_names.counts:
            # one for all that an owner holds: they were trained in the same phases
            state[count].copy_(read_tensors(zero / home.name / f"{count}.pt"))
        for kind in (WEIGHTS, *optimizer.state_names.states):
            mapped: Mapped = []
            own = state[kind].view(-1)[home.owner_start : home.owner_start + home.numel]
            saved = read_mapping(zero / home.name / f"{kind}.pt", mapped=mapped)
            for first, values in _own_stretch(engine, saved, home, most=max(1, memory_bytes // 4 // 4)):
                own[first : first + len(values)].copy_(values)
                give_back(mapped)
    update_working_weights(engine)
    for counter in ("global_steps", "global_samples", "skipped_steps"):
        setattr(engine, counter, model[counter])
    return model


def _require_same_optimizer(model: Mapping[str, Any], optimizer: Phased, *, where: Path) -> None:
    """UserError where another optimizer wrote the state: its numbers would be taken for what they are not."""
    held = StateNames.recorded(model[INFO].get(STATE_NAMES))
    if held != optimizer.state_names:
        raise UserError(
            f"{where}: holds the state of {held}, and optim.name is {optimizer.state_names}: go on with the optimizer "
            "that wrote it, or train anew under another `name`"
        )


class Home(NamedTuple):
    """Where a stretch of a parameter's full-precision state lives on this rank."""

    name: str
    parameter: Any  # with what DeepSpeed hangs on it
    owner: Tensor  # what the optimizer updates: ZeRO's flat partition, or the parameter itself
    start: int  # of the stretch in the flattened parameter (of this tensor-parallel rank)
    owner_start: int
    numel: int


def homes(engine: Any) -> Iterator[Home]:
    """The stretches this rank updates. A rank may own none of a group, only padding."""
    name_of = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    for owner, parameters in zip(_owners(engine), _grouped_parameters(engine), strict=True):
        offset = 0
        for parameter in parameters:
            name = name_of[id(parameter)]
            if engine.zero_optimization_partition_weights():
                start, numel, share = own_share(parameter)
                yield Home(name, parameter, owner, start, offset, numel)
                offset += share
            elif not engine.zero_optimization():
                yield Home(name, parameter, owner, 0, 0, parameter.numel())
            elif (stretch := own_stretch(parameter)) is not None:
                yield Home(name, parameter, owner, *stretch)


def _owners(engine: Any) -> list[Tensor]:
    """The tensors the optimizer updates on this rank."""
    if engine.zero_optimization_partition_weights():
        return list(engine.optimizer.owners)
    return [tensor for group in engine.basic_optimizer.param_groups for tensor in group["params"]]


def _grouped_parameters(engine: Any) -> list[list[Any]]:
    """The parameters each owner holds a stretch of."""
    if not engine.zero_optimization():
        return [[parameter] for parameter in _owners(engine)]
    return list(engine.optimizer.groups)


def update_working_weights(engine: Any) -> None:
    """What the forward pass uses follows the full-precision state."""
    zero = engine.optimizer
    if not isinstance(zero, Stage3Optimizer):
        if engine.zero_optimization():
            zero.update_lp_params()
        return
    flats = zip(zero.flat_weights, zero.owners, strict=True)
    for (working, owner), parts in zip(flats, zero.weights, strict=True):
        working.data.copy_(owner.data)
        for part, values in zip(parts, zero.unflatten(working, parts), strict=True):
            part.data = values.data


def _model_state(directory: Path) -> dict[str, Any]:
    """Counters and client state."""
    return read_mapping(directory / MODEL_FILE)


def _own_stretch(engine: Any, saved: Mapping[str, Any], home: Home, *, most: int) -> Iterator[tuple[int, Tensor]]:
    """The stretch of `home` in a full tensor, in parts of about `most` values: (where in the stretch, values [n]).

    Behind the last row of a vocabulary come zeros: it is padded to be cut.
    """
    full: Tensor = saved[PARAM]
    shape = whole_shape(home.parameter)
    tp_rank = 0 if full.shape == shape else engine.mpu.get_tensor_model_parallel_rank()
    if full.shape != shape and saved[CAT_DIM] == -1:
        yield from _columns(full, home, first=tp_rank * shape[-1], width=shape[-1], most=most)
        return
    before, flat = tp_rank * math.prod(shape), full.reshape(-1)
    for done in range(0, home.numel, most):
        count, start = min(most, home.numel - done), before + home.start + done
        there = flat[start : start + count]
        yield done, torch.cat([there, there.new_zeros(count - len(there))]) if len(there) < count else there


def _columns(full: Tensor, home: Home, *, first: int, width: int, most: int) -> Iterator[tuple[int, Tensor]]:
    """The same of a parameter that is cut by its last dimension: these columns of each row."""
    columns = full.reshape(-1, full.shape[-1])[:, first : first + width]
    stop, step = home.start + home.numel, max(1, most // width)
    for row in range(home.start // width, -(-stop // width), step):
        begins = row * width
        values = columns[row : row + step].reshape(-1)[max(home.start - begins, 0) : stop - begins]
        yield max(begins - home.start, 0), values


def _names_in(zero: Path, common: Mapping[str, Any]) -> Iterable[str]:
    """The parameters of a conversion; those of 0.2 have to be listed."""
    listed: Iterable[str] | None = common.get(NAMES)
    return (entry.name for entry in zero.iterdir() if entry.is_dir()) if listed is None else listed


def _patterns(names: Iterable[str]) -> list[str]:
    return [f"^{re.escape(name)}$" for name in names]
