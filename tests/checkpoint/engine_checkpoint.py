"""A checkpoint as the engine writes it at ZeRO 1, of any size, without an engine: known numbers, piece by piece."""

import math
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils.tensor_fragment import fragment_address

from hierlm.checkpoint.engine_files import INFO, PARAMETER_SLICES, STATE_NAMES, TENSOR_DEGREE
from hierlm.optim.state_names import StateNames

Shapes = dict[str, tuple[int, ...]]
STATES = {"exp_avg": 0.5, "exp_avg_sq": 0.25}
"""What each is of the weights."""


def numbers(start: int, count: int) -> torch.Tensor:
    """The weights at these places of the flat model: exact in fp32, and hardly any two neighbours alike."""
    return torch.arange(start, start + count, dtype=torch.int64).remainder(999_983).float()


def write_engine_files(folder: Path, shapes: Shapes, *, dp: int) -> None:
    """`folder` as DeepSpeed leaves it: one model file, and for each of `dp` ranks its partition of all parameters."""
    folder.mkdir(parents=True)
    total = sum(map(math.prod, shapes.values()))
    share = -(-total // dp)
    info = {
        PARAMETER_SLICES: dict.fromkeys(shapes, "replicate"),
        STATE_NAMES: StateNames.of("adamw").model_dump(),
        TENSOR_DEGREE: 1,
    }
    model = {
        "module": {},
        "param_shapes": [{name: torch.Size(shape) for name, shape in shapes.items()}],
        "dp_world_size": dp,
        "ds_version": "0.19.8",
        INFO: info,
    }
    torch.save(model, folder / "mp_rank_00_model_states.pt")
    for rank in range(dp):
        torch.save(_partition(shapes, first=rank * share, size=share, total=total), folder / _name(rank))


def _name(rank: int) -> str:
    return f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"


def _partition(shapes: Shapes, *, first: int, size: int, total: int) -> dict[str, Any]:
    addresses, before = {}, 0
    for name, shape in shapes.items():
        start, stop = max(before, first), min(before + math.prod(shape), first + size)
        if start < stop:
            addresses[name] = fragment_address(numel=stop - start, start=start - first)
        before += math.prod(shape)
    weights = torch.zeros(size)
    there = max(min(size, total - first), 0)
    weights[:there] = numbers(first, there)
    states = {name: weights * factor for name, factor in STATES.items()}
    return {
        "optimizer_state_dict": {
            "base_optimizer_state": {"state": {0: {"step": torch.tensor(7.0), **states}}},
            "single_partition_of_fp32_groups": [weights],
            "param_slice_mappings": [addresses],
        }
    }
