"""Each name behind the seams renamed in turn, and what a start says then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import isclass, unwrap
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest
import torch

from hierlm.config.load import load_config
from hierlm.errors import UserError
from hierlm.parallel.seams import (
    deepspeed_names,
    megatron_names,
    optimizers,
    parameters,
    questions,
    slices,
    torch_private,
)
from hierlm.parallel.seams import engine as engines
from hierlm.parallel.seams.handle import Field, Handle
from hierlm.parallel.seams.seam import Names, Seam, thing_at
from hierlm.parallel.seams.spoken import SPOKEN
from hierlm.parallel.seams.start import every_seam, handles
from tests.distributed.sizes import TWO_LAYERS
from tests.distributed.spawn import end_groups

SMALL = [
    *TWO_LAYERS,
    "phases.0.sequence_length=16",
    "phases.0.global_batch_size=4",
]
LAYOUTS = {
    "plain": [],
    "bf16": ["train.precision=bf16"],
    "zero1": ["parallel.zero_stage=1"],
    "zero3": ["parallel.zero_stage=3"],
    "pipeline": ["parallel.pipeline_parallel_degree=2"],
    "tensor": ["parallel.tensor_parallel_degree=2"],
}
"""One where each kind of object is made."""

MADE_AT: dict[type[Handle], str] = {
    engines.Engine: "plain",
    engines.Settings: "plain",
    engines.PipelineEngine: "pipeline",
    optimizers.ZeroOptimizer: "zero1",
    optimizers.PartitionedOptimizer: "zero1",
    optimizers.Bf16Optimizer: "bf16",
    optimizers.Stage12Optimizer: "zero1",
    optimizers.Stage3Optimizer: "zero3",
    parameters.PartitionedParameter: "zero3",
    parameters.LinkedParameter: "zero1",
    parameters.Link: "zero1",
    parameters.Address: "zero1",
    slices.ColumnSlice: "tensor",
}

Found = dict[Seam, tuple[str, ...] | None]
"""What the start said with the name away; None: it began."""


def found_by_name() -> Found:
    """On one rank: every name that can be looked for before there is an engine."""
    from hierlm.parallel.compilation import compile_layers

    start = starts("plain")
    lists: list[tuple[Names, Callable[[], Any]]] = [
        (deepspeed_names.NAMES, start),
        (megatron_names.NAMES, start),
        (torch_private.NAMES, start),
        (torch_private.COMPILER, partial(compile_layers, [], device=torch.device("cpu"))),
        (deepspeed_names.OPS, partial(deepspeed_names.leave_out_ops, "shm")),
    ]
    found = {seam: said(begin, without(seam)) for some, begin in lists for seam in dict.fromkeys(some.seams)}
    methods = [field.seam for handle in handles() for field in handle.attributes() if field.is_on_class]
    others = [
        optimizers.INVALID_NORM,
        *questions.IS_INVALID,
        questions.CLIP,
        torch_private.ModuleHooks.before_load.seam,
    ]
    others += [handle.class_seam() for handle in handles() if isclass(thing_at(handle.of))]
    found |= {seam: said(start, without(seam)) for seam in dict.fromkeys([*methods, *others]) if seam.applies}
    found |= {seam: said(start, unspoken(seam)) for seam in SPOKEN if seam.applies}
    return {**found, **found_on_objects(["plain", "bf16", "zero1", "zero3"])}


def found_on_objects(layouts: list[str]) -> Found:
    """On one rank: every name that a constructor puts on an object of these layouts."""
    found: Found = {}
    for handle, layout in MADE_AT.items():
        own = [field for field in vars(handle).values() if isinstance(field, Field) and not field.is_on_class]
        for field in (field for field in own if layout in layouts and field.seam.applies):
            found[field.seam] = said(starts(layout), lost_by(handle, field.seam.name))
    return found


def starts(layout: str) -> Callable[[], Any]:
    """What begins a run of that layout in this process."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    config = load_config("configs/tiny/transformer.yaml", [*SMALL, *LAYOUTS[layout]])
    process = start_processes()
    end_groups()
    return partial(Engine, config, process=process)


def said(begin: Callable[[], Any], renamed: Any) -> tuple[str, ...] | None:
    with renamed:
        try:
            begin()
        except UserError as error:
            return error.problems
    return None


@contextmanager
def without(seam: Seam) -> Iterator[None]:
    """The name is another one, on the module or class that holds it."""
    with pytest.MonkeyPatch.context() as patch:
        owner = thing_at(seam.owner)
        if seam.name == "_load_state_dict_pre_hooks":  # of every module that is made
            patch.setattr(torch.nn, "Module", type("Module", (), {}))
        elif seam.name == "_cdata":  # of a class written in C, which cannot be changed
            patch.setattr(torch, "UntypedStorage", type("UntypedStorage", (), {}))
        else:
            rename(patch, owner, seam.name)
        yield


@contextmanager
def unspoken(seam: Seam) -> Iterator[None]:
    """The function looks for another name."""
    function = unwrap(thing_at(seam.owner))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(function, "__code__", _speaking_otherwise(function.__code__, seam.name))
        yield


@contextmanager
def lost_by(handle: type[Handle], name: str) -> Iterator[None]:
    """What DeepSpeed or megatron-core has made calls it otherwise, from then on."""
    with pytest.MonkeyPatch.context() as patch:
        if handle is slices.ColumnSlice:
            build = megatron_names.ColumnParallelLinear.__init__
            patch.setattr(
                megatron_names.ColumnParallelLinear, "__init__", _then(build, partial(rename, patch, name=name))
            )
        else:
            whole = deepspeed_names.initialize

            def initialize(**given: Any) -> Any:
                made = whole(**given)
                rename(patch, _holder(handle, made[0]), name)
                return made

            patch.setattr(deepspeed_names, "initialize", initialize)
        yield


def rename(patch: pytest.MonkeyPatch, thing: Any, name: str) -> None:
    """The attribute of a module, class or object is called otherwise, wherever it stands."""
    kinds = thing.__mro__ if isinstance(thing, type) else type(thing).__mro__
    boxes = [] if isinstance(thing, type) else [vars(thing), *(vars(thing).get(b, {}) for b in ("_modules",))]
    if isinstance(thing, ModuleType) or any(name in box for box in boxes):
        for box in (box for box in boxes if name in box):
            patch.setitem(box, f"renamed{name}", box[name])
            patch.delitem(box, name)
    if hasattr(thing, "__getattr__") and isinstance(thing, ModuleType):  # it makes what it lacks
        patch.setattr(thing if "__getattr__" in vars(thing) else type(thing), "__getattr__", _lacking(name))
    for kind in (kind for kind in kinds if name in vars(kind)):
        patch.setattr(kind, f"renamed{name}", vars(kind)[name], raising=False)
        patch.delattr(kind, name)


def _lacking(name: str) -> Any:
    def lacking(*given: str) -> Any:
        raise AttributeError(name)

    return lacking


def _then(build: FunctionType, after: Callable[[Any], None]) -> Callable[..., None]:
    def built(self: Any, *given: Any, **more: Any) -> None:
        build(self, *given, **more)
        after(self)

    return built


def _holder(handle: type[Handle], engine: Any) -> Any:
    """Where the handle looks for its fields."""
    if issubclass(handle, engines.Engine):
        return engine
    if handle is engines.Settings:
        return engine._config
    if issubclass(handle, optimizers.ZeroOptimizer):
        return engine.optimizer
    if handle is parameters.PartitionedParameter:
        return engine.optimizer.fp16_groups[0][0]
    parameter = next(p for p in engine.optimizer.bit16_groups[0] if p._hp_mapping is not None)
    linked = {parameters.LinkedParameter: parameter, parameters.Link: parameter._hp_mapping}
    return linked.get(handle, parameter._hp_mapping.lp_fragment_address)


def _speaking_otherwise(code: CodeType, word: str) -> CodeType:
    def other(found: Any) -> Any:
        if isinstance(found, CodeType):
            return _speaking_otherwise(found, word)
        return f"renamed{word}" if found == word else found

    return code.replace(co_names=tuple(map(other, code.co_names)), co_consts=tuple(map(other, code.co_consts)))


def seams_that_apply() -> set[Seam]:
    """All there are for the installed releases."""
    return {seam for seam in every_seam() if seam.applies}
