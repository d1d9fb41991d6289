"""What DeepSpeed leaves on disk, ZeRO 0-3, as pieces of parameters. Nothing is copied before it is asked for.

A slice is what one tensor-parallel rank of one pipeline stage holds of the model (DeepSpeed's `mp_rank`); ZeRO cuts
the flat fp32 state of a slice into one fragment per data-parallel rank, which lie in that rank's optimizer file.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, cat

from hierlm.checkpoint.tensor_file import content_that_fits, read_mapping
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

    def tensor(self, state: str) -> Tensor | None:
        """The slice, fp32 of `shape`; None where the optimizer holds nothing yet."""
        parts = self.fragments.get(state)
        if not parts:
            return None
        flat = parts[0] if len(parts) == 1 else cat(parts)
        assert flat.numel() == math.prod(self.shape), f"{state}: {flat.numel()} elements for shape {self.shape}"
        return flat.view(self.shape).float()


@dataclass(frozen=True)
class Slice:
    """The pieces of one (pipeline stage, tensor-parallel rank), and the model file that describes them."""

    pp_rank: int
    tp_rank: int
    pieces: dict[str, Piece]
    info: Mapping[str, Any]
    model: Mapping[str, Any]
    names: StateNames = field(default_factory=lambda: StateNames.recorded(None))


def read_slices(engine_dir: Path) -> list[Slice]:
    """All slices, stage by stage. ValueError if the folder is no checkpoint of the engine, or is incomplete.

    UserError for files that hold other things than the engine puts there.
    """
    model_files = {int(m[1]): path for path, m in _matching(engine_dir, _MODEL_FILE)}
    optimizer_files: dict[int, dict[int, Path]] = {}
    for path, match in _matching(engine_dir, _OPTIMIZER_FILE):
        optimizer_files.setdefault(int(match[2]), {})[int(match[1])] = path
    if not model_files or sorted(model_files) != list(range(len(model_files))):
        raise ValueError(f"{engine_dir}: model files of slices {sorted(model_files)} are not a whole checkpoint")
    return [_read_slice(path, optimizer_files.get(index, {}), index) for index, path in sorted(model_files.items())]


def _matching(engine_dir: Path, pattern: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in sorted(engine_dir.iterdir()):
        if match := pattern.fullmatch(path.name):
            yield path, match


def _read_slice(model_file: Path, by_dp_rank: dict[int, Path], index: int) -> Slice:
    model = read_mapping(model_file)
    optimizers = [read_mapping(path) for _, path in sorted(by_dp_rank.items())]
    with content_that_fits(model_file):
        found = _slice_of(model, [optimizer["optimizer_state_dict"] for optimizer in optimizers], model_file, index)
        return _require_whole(found, model_file)


def _require_whole(found: Slice, model_file: Path) -> Slice:
    """Every parameter has the values that its shape tells of: nothing is made of a shape alone."""
    for name, piece in found.pieces.items():
        count = sum(part.numel() for part in piece.fragments.get(WEIGHTS, ()))
        if count != math.prod(piece.shape):
            raise UserError(f"{model_file}: {name}: {count} values for shape {list(piece.shape)}; restore the file")
    return found


def _slice_of(model: dict[str, Any], optimizers: list[Any], model_file: Path, index: int) -> Slice:
    if optimizers and len(optimizers) != model["dp_world_size"]:
        raise ValueError(
            f"{model_file.parent}: {len(optimizers)} of {model['dp_world_size']} optimizer files are there"
        )
    info = model.get(INFO) or {}
    names = StateNames.recorded(info.get(STATE_NAMES))
    pp_rank, tp_rank = divmod(index, _tensor_degree(model))
    if not optimizers:
        pieces = _whole_pieces(model, names)
    elif "fp32_flat_groups" in optimizers[0]:
        pieces = _stage_3_pieces(model["param_shapes"], optimizers, names)
    else:
        pieces = _stage_1_and_2_pieces(model["param_shapes"], optimizers, names)
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


def _stage_1_and_2_pieces(shapes: list[Any], optimizers: list[Any], names: StateNames) -> dict[str, Piece]:
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


def _stage_3_pieces(shapes: list[Any], optimizers: list[Any], names: StateNames) -> dict[str, Piece]:
    """ZeRO 3 cuts every parameter into equal stretches, the last one padded."""
    pieces = {name: Piece(tuple(shape)) for group in shapes for name, shape in group.items()}
    for dp_rank, optimizer in enumerate(optimizers):
        state_of, flat_weights = optimizer["optimizer_state_dict"]["state"], optimizer["fp32_flat_groups"]
        for group, of_group in enumerate(shapes):
            state, offset = state_of.get(group, {}), 0
            for name, shape in of_group.items():
                share = -(-math.prod(shape) // len(optimizers))
                real = min(max(math.prod(shape) - dp_rank * share, 0), share)
                _append(pieces[name], flat_weights[group], state, slice(offset, offset + real), names)
                offset += share
    return pieces


def _append(piece: Piece, weights: Tensor, state: Mapping[str, Any], stretch: slice, names: StateNames) -> None:
    flats = {WEIGHTS: weights, **{name: state[name] for name in names.states if name in state}}
    for name, flat in flats.items():
        piece.fragments.setdefault(name, []).append(flat.detach().reshape(-1)[stretch])
    piece.counts = {name: int(state.get(name, 0)) for name in names.counts}
