"""Who converts which parameter: so that a rank opens only files that hold something of what is its share.

Every file is looked into by one rank, which tells the first what lies where; the first deals neighbouring parameters to
each, as many bytes to one as to the other. ZeRO 1 and 2 lay parameters end to end over the ranks' files, so neighbours
lie in the same ones; at ZeRO 3 every file holds a stretch of every parameter, and all have to be opened by all.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hierlm.checkpoint.engine_files import (
    INFO,
    OPTIMIZER_NAMES,
    STATE_NAMES,
    SliceFiles,
    files_of_slices,
    is_stage_3,
)
from hierlm.checkpoint.team import Team
from hierlm.checkpoint.tensor_file import content_that_fits, read_mapping
from hierlm.optim.state_names import StateNames


class SourceFile(NamedTuple):
    """A file of the engine's, and whose it is."""

    path: Path
    slice_index: int
    dp_rank: int | None  # None: the slice's model file


@dataclass(frozen=True)
class Found:
    """What one file tells; of a model file its shapes, of an optimizer's what it holds a stretch of."""

    file: SourceFile
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # in the order of the groups
    num_optimizers: int = 0
    held: frozenset[str] | None = None  # None: of all parameters
    counts: Mapping[str, int] = field(default_factory=dict)  # the most of all groups; those of a model file are all


@dataclass(frozen=True)
class Share:
    """What one rank converts, and the files it needs for it."""

    names: tuple[str, ...]
    files: tuple[SliceFiles, ...]


@dataclass(frozen=True)
class Division:
    """What the first rank knows of the whole."""

    names: tuple[str, ...]
    counts: Mapping[str, int]
    first: SliceFiles
    shares: tuple[Share, ...]


def divide(engine_dir: Path, *, team: Team) -> tuple[Share, Division | None]:
    """This rank's share, and on the first rank the whole; every rank calls it. TeamError on all if one cannot read."""
    listed = team.collected(lambda: files_of_slices(engine_dir) if team.is_first else [])
    slices = listed[0] if team.is_first else []
    mine = team.dealt([file for files in slices for file in _source_files(files)])
    found = [one for some in team.collected(lambda: [look_into(file) for file in mine]) for one in some]
    divided = team.collected(lambda: _divided(slices, found, size=team.size) if team.is_first else None)
    division = divided[0] if team.is_first else None
    share: Share = team.scatter(() if division is None else division.shares)
    return share, division


def look_into(file: SourceFile) -> Found:
    """What a file tells, of which no values are read."""
    content = read_mapping(file.path)
    with content_that_fits(file.path):
        return _of_model(file, content) if file.dp_rank is None else _of_optimizer(file, content)


def _source_files(files: SliceFiles) -> list[SourceFile]:
    optimizers = (SourceFile(path, files.index, dp_rank) for dp_rank, path in files.optimizers.items())
    return [SourceFile(files.model, files.index, None), *optimizers]


def _of_model(file: SourceFile, model: Mapping[str, Any]) -> Found:
    counted = StateNames.recorded((model.get(INFO) or {}).get(STATE_NAMES)).counts
    shapes = model.get("param_shapes")
    if shapes:
        of_all = {name: tuple(shape) for group in shapes for name, shape in group.items()}
        return Found(file, of_all, int(model["dp_world_size"]), counts=dict.fromkeys(counted, 0))
    weights, names = model["module"], (name for group in model[INFO][OPTIMIZER_NAMES] for name in group)
    counts = {**dict.fromkeys(counted, 0), **_most(model["optimizer"]["state"])}  # ZeRO 0
    return Found(file, {name: tuple(weights[name].shape) for name in names}, counts=counts)


def _of_optimizer(file: SourceFile, content: Mapping[str, Any]) -> Found:
    optimizer = content["optimizer_state_dict"]
    if is_stage_3(optimizer):
        return Found(file, held=None, counts=_most(optimizer["optimizer_state_dict"]["state"]))
    held = frozenset(name for addresses in optimizer["param_slice_mappings"] for name in addresses)
    return Found(file, held=held, counts=_most(optimizer["base_optimizer_state"]["state"]))


def _most(states: Mapping[Any, Mapping[str, Any]]) -> dict[str, int]:
    """Of each scalar in an optimizer's state the largest."""
    most: dict[str, int] = {}
    for state in states.values():
        for name, value in state.items():
            if isinstance(value, int | float) or getattr(value, "shape", None) == ():
                most[name] = max(most.get(name, 0), int(value))
    return most


def _divided(slices: Sequence[SliceFiles], found: Sequence[Found], *, size: int) -> Division:
    models = {one.file.slice_index: one for one in found if one.file.dp_rank is None}
    holding = _Holding(found)
    for files in slices:
        wanted = models[files.index].num_optimizers
        if files.optimizers and len(files.optimizers) != wanted:
            raise ValueError(f"{files.model.parent}: {len(files.optimizers)} of {wanted} optimizer files are there")
    sizes: dict[str, int] = {}
    in_slices: dict[str, list[SliceFiles]] = {}
    for files in slices:
        shapes = models[files.index].shapes
        for name in sorted(filter(lambda name: math.prod(shapes[name]), shapes), key=holding.first_in(files)):
            sizes[name] = sizes.get(name, 0) + math.prod(shapes[name])
            in_slices.setdefault(name, []).append(files)
    counts = {name: max(one.counts.get(name, 0) for one in found) for name in models[slices[0].index].counts}
    shares = (Share(names, holding.files(names, in_slices)) for names in _dealt(sizes, size))
    return Division(tuple(sorted(sizes)), counts, slices[0], tuple(shares))


class _Holding:
    """Which optimizer files hold something of which parameter."""

    def __init__(self, found: Sequence[Found]) -> None:
        self._by_file = {
            (one.file.slice_index, one.file.dp_rank): one.held for one in found if one.file.dp_rank is not None
        }

    def ranks(self, files: SliceFiles, name: str) -> list[int]:
        held = ((rank, self._by_file[files.index, rank]) for rank in sorted(files.optimizers))
        return [rank for rank, names in held if names is None or name in names]

    def first_in(self, files: SliceFiles) -> Callable[[str], int]:
        """By which parameters are sorted that lie in the same files."""
        first: dict[str, int] = {}
        for rank in sorted(files.optimizers, reverse=True):
            first.update(dict.fromkeys(self._by_file[files.index, rank] or (), rank))
        return lambda name: first.get(name, 0)

    def files(self, names: Sequence[str], in_slices: Mapping[str, Sequence[SliceFiles]]) -> tuple[SliceFiles, ...]:
        """What has to be opened for these parameters."""
        slices: dict[int, SliceFiles] = {}
        needed: dict[int, set[int]] = {}
        for name in names:
            for files in in_slices[name]:
                slices[files.index] = files
                needed.setdefault(files.index, set()).update(self.ranks(files, name))
        return tuple(
            SliceFiles(index, files.model, {rank: files.optimizers[rank] for rank in sorted(needed[index])})
            for index, files in sorted(slices.items())
        )


def _dealt(sizes: Mapping[str, int], size: int) -> list[tuple[str, ...]]:
    """Neighbours together, by bytes: a parameter goes where its middle falls."""
    shares: list[list[str]] = [[] for _ in range(size)]
    total, before = sum(sizes.values()), 0
    for name, count in sizes.items():
        shares[(2 * before + count) * size // (2 * total)].append(name)
        before += count
    return [tuple(names) for names in shares]
