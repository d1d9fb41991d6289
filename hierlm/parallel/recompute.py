"""Running a stretch of the layer list: seeded draws per layer, and activation recompute around each of them."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.profiler import record_function
from torch.utils.checkpoint import CheckpointPolicy, checkpoint

from hierlm.nn.draws import DrawKey, Draws, drawing, keyed_seed
from hierlm.nn.inputs import Inputs
from hierlm.nn.kernels import prefix_attention
from hierlm.nn.kernels.linear import fused_product
from hierlm.nn.layer import Layer, Memory
from hierlm.nn.report import Report
from hierlm.nn.stream import Stream
from hierlm.parallel.seams.torch_private import (
    ATTENTION_OPERATORS,
    FirstComputation,
    SecondComputation,
    profiler_is_running,
)

if TYPE_CHECKING:
    from hierlm.parallel.sequence import TokenShares, Whole

Recompute = Literal["none", "selective", "full"]
Memories = tuple[Memory | None, ...]

Ran = tuple[tuple[Tensor, ...], Memory | None, tuple[Report, ...]]
"""What a layer leaves: levels, its new memory, its reports. Computed a second time, it reports to nobody."""

LAYER_SPAN = "layers."
"""How the spans of layers begin in a profiler's trace."""

aten = torch.ops.aten
_KEPT = frozenset(
    {
        aten.mm.default,
        aten.addmm.default,
        *ATTENTION_OPERATORS,
        prefix_attention.operator.default,
        *([] if fused_product is None else [fused_product.default]),
    }
)
"""What selective recompute keeps: outputs that are dear to compute for their size. The rest is computed again."""


_keeps_products = ContextVar("keeps_products", default=True)


def run_layers(
    layers: Mapping[int, Layer],
    stream: Stream,
    memories: Sequence[Memory | None],
    *,
    draw_key: DrawKey | None = None,
    recompute: Recompute = "none",
    shares: "TokenShares | None" = None,
) -> tuple[Stream, Memories]:
    """Fold the layers, keyed by their index in the whole list, over the stream; one memory per layer in and out.

    The stream comes back with what the layers report.

    With a `draw_key` every layer draws row by row, keyed by its index and the row of the global batch: the same for
    every micro-batch size and layout, and when it is computed a second time. What a layer draws in another way than
    by `hierlm.nn.draws` comes from torch's generator, seeded for the layer and the first row. Without a key that
    generator is left alone.
    """
    updated: list[Memory | None] = []
    reports = list(stream.reports)
    whole = None  # while tensor-parallel ranks hold shares of the top level's tokens: what of
    for (index, layer), memory in zip(layers.items(), memories, strict=True):
        run: Callable[..., Any] = partial(_run, layer, stream.inputs)
        if draw_key is not None:
            run = partial(_drawing, run, draw_key, index)
        if profiler_is_running():
            run = partial(_in_span, f"{LAYER_SPAN}{index} {type(layer).__name__}", run)
        if shares is not None:
            stream, whole = shares.before(layer, stream, whole)
            run = run if whole is None else partial(_run_on_shares, run, shares, whole, recompute == "none")
        if recompute != "none" and torch.is_grad_enabled():
            run = partial(_recomputed, run, recompute)
        levels, new_memory, reported = run(stream.levels, memory)
        assert not (reported and whole is not None), "a layer that reports sees whole rows"
        stream = Stream(levels, stream.inputs)
        reports.extend(reported)
        updated.append(new_memory)
    if shares is not None and whole is not None:
        stream = shares.joined(stream, whole)
    return Stream(stream.levels, stream.inputs, tuple(reports)), tuple(updated)


def _in_span(name: str, run: Callable[..., Any], *of: Any) -> Any:
    with record_function(name):
        return run(*of)


def _run_on_shares(run: Callable[..., Any], shares: "TokenShares", whole: "Whole", keeps_shares: bool, *of: Any) -> Any:
    with shares.running(whole, keeps_shares=keeps_shares):
        return run(*of)


def _run(layer: Layer, inputs: Inputs, levels: tuple[Tensor, ...], memory: Memory | None) -> Ran:
    stream, new_memory = layer(Stream(levels, inputs), memory)
    return stream.levels, new_memory, stream.reports


def _drawing(run: Callable[..., Any], key: DrawKey, index: int, *of: Any) -> Any:
    _seed_torch(keyed_seed("draws", *key, index))
    with drawing(Draws(key, layer=index)):
        return run(*of)


def _seed_torch(seed: int) -> None:
    """The generators of this process's devices; `torch.manual_seed` looks at those of all kinds, a tenth of a ms."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)


def _recomputed(
    run: Callable[..., Any], recompute: Recompute, levels: tuple[Tensor, ...], memory: Memory | None
) -> Ran:
    # the layer seeds itself, so the generator's state need not be kept
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if recompute == "selective":
        options["context_fn"] = _keep_and_reuse
    result: Ran = checkpoint(run, levels, memory, **options)
    return result


@contextmanager
def unkept_products() -> Iterator[None]:
    """Products made inside are computed again under selective recompute: for outputs that are changed in place."""
    token = _keeps_products.set(False)
    try:
        yield
    finally:
        _keeps_products.reset(token)


def _keep_and_reuse() -> "tuple[_Keep, _Reuse]":
    """Contexts of a layer's first and second computation, in which every kept product is known by its number."""
    kept: dict[Any, Any] = defaultdict(dict)
    return _Keep(_policy, kept), _Reuse(_policy, kept)


# torch's own `create_selective_checkpoint_contexts` numbers all operators, kept or not, and refuses a second
# computation that runs one oftener than the first did. ZeRO 3 gathers weights inside layers, and where it fetched them
# ahead the first time, it does not the second: what is not kept is therefore not counted.
class _Keep(FirstComputation):  # type: ignore[misc]
    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        run = super().__torch_dispatch__ if operator in _KEPT else _pass
        return run(operator, types, args, kwargs)


class _Reuse(SecondComputation):  # type: ignore[misc]
    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        run = super().__torch_dispatch__ if operator in _KEPT else _pass
        return run(operator, types, args, kwargs)


def _pass(operator: Any, types: Any, args: Any, kwargs: Any) -> Any:
    return operator(*args, **(kwargs or {}))


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    is_kept = operator in _KEPT and _keeps_products.get()
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE
