"""What DeepSpeed leaves on disk, ZeRO 0-3, as pieces of parameters. Nothing is copied before it is asked for.

A slice is what one tensor-parallel rank of one pipeline stage holds of the model (DeepSpeed's `mp_rank`); ZeRO cuts
the flat fp32 state of a slice into one fragment per data-parallel rank, which lie in that rank's optimizer file.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, cat, zeros

from hierlm.checkpoint.tensor_file import Mapped, content_that_fits, read_mapping
from hierlm.errors import UserError
from hierlm.optim.state_names import StateNames

WEIGHTS = "fp32"
"""The master weight, by DeepSpeed's name; beside it stand the optimizer's states by theirs."""

INFO = "universal_checkpoint_info"
"""Where a model file says how its parameters were cut (`hierlm.parallel.universal.universal_info`)."""
OPTIMIZER_NAMES = "optimizer_parameter_names"
PARAMETER_SLICES = "parameter_slices"
VOCAB_SIZE = "original_vocab_size"
STATE_NAMES = "optimizer_state_names"
TENSOR_DEGREE = "tensor_parallel_degree"

_MODEL_FILE = re.compile(r"(?:zero_pp_rank_0_)?mp_rank_(\d+)_model_states\.pt")
_OPTIMIZER_FILE = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")


@dataclass
class Piece:
    """What one slice holds of one parameter."""

    shape: tuple[int, ...]
    counts: dict[str, int] = field(default_factory=dict)
    fragments: dict[str, list[Tensor]] = field(default_factory=dict)

    def stretch(self, state: str, start: int, stop: int) -> Tensor:
        """fp32 [stop - start] of the flattened slice; zeros where the optimizer holds nothing yet."""
        found, first = [], 0
        for part in self.fragments.get(state, ()):
            if first < stop and first + len(part) > start:
                found.append(part[max(start - first, 0) : stop - first].float())
            first += len(part)
        if not found:
            return zeros(stop - start)
        return found[0] if len(found) == 1 else cat(found)


@dataclass(frozen=True)
class Slice:
    """The pieces of one (pipeline stage, tensor-parallel rank), and the model file that describes them."""

    pp_rank: int
    tp_rank: int
    pieces: dict[str, Piece]
    info: Mapping[str, Any]
    model: Mapping[str, Any]
    names: StateNames = field(default_factory=lambda: StateNames.recorded(None))


@dataclass(frozen=True)
class SliceFiles:
    """The files of one slice: `index` counts them over stages and tensor-parallel ranks."""

    index: int
    model: Path
    optimizers: Mapping[int, Path]
    """By data-parallel rank; none at ZeRO 0."""


def files_of_slices(engine_dir: Path) -> list[SliceFiles]:
    """All of them, by one listing. ValueError if the folder is no checkpoint of the engine, or is incomplete."""
    models: dict[int, Path] = {}
    optimizers: dict[int, dict[int, Path]] = {}
    for path in sorted(engine_dir.iterdir()):
        if match := _MODEL_FILE.fullmatch(path.name):
            models[int(match[1])] = path
        elif match := _OPTIMIZER_FILE.fullmatch(path.name):
            optimizers.setdefault(int(match[2]), {})[int(match[1])] = path
    if not models or sorted(models) != list(range(len(models))):
        raise ValueError(f"{engine_dir}: model files of slices {sorted(models)} are not a whole checkpoint")
    return [SliceFiles(index, path, optimizers.get(index, {})) for index, path in sorted(models.items())]


def read_slices(engine_dir: Path, *, mapped: Mapped | None = None) -> list[Slice]:
    """All slices, stage by stage. ValueError as of `files_of_slices`; `mapped` as of `read_tensors`.

    UserError for files that hold other things than the engine puts there.
    """
    return [read_slice(files, mapped=mapped) for files in files_of_slices(engine_dir)]


def read_slice(files: SliceFiles, *, names: Collection[str] | None = None, mapped: Mapped | None = None) -> Slice:
    """One slice, opening each of its files once; with `names` only these parameters, of which the files must hold all.

    Raises as `read_slices`.
    """
    model = read_mapping(files.model, mapped=mapped)
    contents = {rank: read_mapping(path, mapped=mapped) for rank, path in sorted(files.optimizers.items())}
    with content_that_fits(files.model):
        optimizers = {rank: content["optimizer_state_dict"] for rank, content in contents.items()}
        if names is None and optimizers and len(optimizers) != model["dp_world_size"]:
            raise ValueError(
                f"{files.model.parent}: {len(optimizers)} of {model['dp_world_size']} optimizer files are there"
            )
        found = _slice_of(model, optimizers, files.index)
        for name in [name for name in found.pieces if names is not None and name not in names]:
            del found.pieces[name]
        _require_whole(found, files.model)
        return found


def _require_whole(found: Slice, model_file: Path) -> None:
    """Every parameter has the values that its shape tells of: nothing is made of a shape alone."""
    for name, piece in found.pieces.items():
        count = sum(part.numel() for part in piece.fragments.get(WEIGHTS, ()))
        if count != math.prod(piece.shape):
            raise UserError(f"{model_file}: {name}: {count} values for shape {list(piece.shape)}; restore the file")


def _slice_of(model: dict[str, Any], optimizers: Mapping[int, Any], index: int) -> Slice:
    """`optimizers` by data-parallel rank; where some are missing, what only they hold of parameters is missing too."""
    info = model.get(INFO) or {}
    names = StateNames.recorded(info.get(STATE_NAMES))
    pp_rank, tp_rank = divmod(index, _tensor_degree(model))
    if not optimizers:
        pieces = _whole_pieces(model, names)
    elif is_stage_3(next(iter(optimizers.values()))):
        pieces = _stage_3_pieces(model["param_shapes"], optimizers, names, num_ranks=model["dp_world_size"])
    else:
        pieces = _stage_1_and_2_pieces(model["param_shapes"], optimizers.values(), names)
    return Slice(pp_rank, tp_rank, pieces, info, model, names)


def _tensor_degree(model: Mapping[str, Any]) -> int:
    """As we say it ourselves; in checkpoints of 0.1, which do not, as DeepSpeed does from 0.19.5 on."""
    info = model.get(INFO) or {}
    return int(info[TENSOR_DEGREE] if TENSOR_DEGREE in info else model["checkpoint_parallel_dimensions"]["tp_degree"])


def _whole_pieces(model: Mapping[str, Any], names: StateNames) -> dict[str, Piece]:
    """ZeRO 0: weights by name, states by their number in the optimizer."""
    parameters = [name for group in model[INFO][OPTIMIZER_NAMES] for name in group]
    weights = model["module"]
    pieces = {}
    for number, name in enumerate(parameters):
        pieces[name] = piece = Piece(tuple(weights[name].shape))
        _append(piece, weights[name], model["optimizer"]["state"].get(number, {}), slice(None), names)
    return pieces


def is_stage_3(optimizer: Mapping[str, Any]) -> bool:
    """Whether an optimizer's file holds a stretch of every parameter, and not a stretch of all of them together."""
    return "fp32_flat_groups" in optimizer


def _stage_1_and_2_pieces(shapes: list[Any], optimizers: Iterable[Any], names: StateNames) -> dict[str, Piece]:
    """ZeRO 1 and 2 cut a group as one flat tensor; each rank's file says which stretch is whose."""
    pieces = {name: Piece(tuple(shape)) for group in shapes for name, shape in group.items()}
    for optimizer in optimizers:
        state_of, flat_weights = (
            optimizer["base_optimizer_state"]["state"],
            optimizer["single_partition_of_fp32_groups"],
        )
        for group, addresses in enumerate(optimizer["param_slice_mappings"]):
            for name, address in addresses.items():
                stretch = slice(address.start, address.start + address.numel)
                _append(pieces[name], flat_weights[group], state_of.get(group, {}), stretch, names)
    return pieces


def _stage_3_pieces(
    shapes: list[Any], optimizers: Mapping[int, Any], names: StateNames, *, num_ranks: int
) -> dict[str, Piece]:
    """ZeRO 3 cuts every parameter into equal stretches, the last one padded."""
    pieces = {name: Piece(tuple(shape)) for group in shapes for name, shape in group.items()}
    for dp_rank, optimizer in optimizers.items():
        state_of, flat_weights = optimizer["optimizer_state_dict"]["state"], optimizer["fp32_flat_groups"]
        for group, of_group in enumerate(shapes):
            state, offset = state_of.get(group, {}), 0
            for name, shape in of_group.items():
                share = -(-math.prod(shape) // num_ranks)
                real = min(max(math.prod(shape) - dp_rank * share, 0), share)
                _append(pieces[name], flat_weights[group], state, slice(offset, offset + real), names)
                offset += share
    return pieces


def _append(piece: Piece, weights: Tensor, state: Mapping[str, Any], stretch: slice, names: StateNames) -> None:
    flats = {WEIGHTS: weights, **{name: state[name] for name in names.states if name in state}}
    for name, flat in flats.items():
        piece.fragments.setdefault(name, []).append(flat.detach().reshape(-1)[stretch])
    piece.counts = {name: int(state.get(name, 0)) for name in names.counts}
