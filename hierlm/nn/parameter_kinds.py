"""What a parameter is, said by the module that makes it: weight decay asks here, never the tensor's shape.

    matrix     weights of a linear map
    vector     what is added or scales, or stands alone: biases, gains, u and v, a null group
    embedding  rows that stand for tokens, scales or memory tokens

A module says it in `PARAMETER_KINDS`: the name of a parameter, or of a submodule, below it -> kind. What it does not
name is what the torch module that holds it makes of it; a parameter of which nobody says anything is an error.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from torch import nn

Kind = Literal["matrix", "vector", "embedding"]

_OF_TORCH: dict[type[nn.Module], dict[str, Kind]] = {
    nn.Linear: {"weight": "matrix", "bias": "vector"},
    nn.Embedding: {"weight": "embedding"},
    nn.LayerNorm: {"weight": "vector", "bias": "vector"},
    nn.RMSNorm: {"weight": "vector"},
}


def parameter_kinds(model: nn.Module) -> dict[str, Kind]:
    """Every name of every parameter -> its kind; all names of a tied one have that of the first.

    Of the single-device module, on any device: a slice or a replaced module says nothing. ValueError names a parameter
    without a kind.
    """
    kinds, known = dict[str, Kind](), dict[int, Kind]()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in known:
            known[id(parameter)] = _kind(model, name)
        kinds[name] = known[id(parameter)]
    return kinds


def _kind(model: nn.Module, name: str) -> Kind:
    """The nearest module that says anything of it decides, even against the torch module that holds it."""
    for module, rest in _around(model, name):
        declared: Mapping[str, Kind] = getattr(module, "PARAMETER_KINDS", {})
        for place in _places(rest):
            if place in declared:
                return declared[place]
    holder, _, own = name.rpartition(".")
    for torch_type, kinds in _OF_TORCH.items():
        if isinstance(model.get_submodule(holder), torch_type) and own in kinds:
            return kinds[own]
    raise ValueError(f"{name}: no module says what it is; declare it in PARAMETER_KINDS of the module that makes it")


def _around(model: nn.Module, name: str) -> Iterator[tuple[nn.Module, str]]:
    """(a module around the parameter, its name below that), the innermost first."""
    parts = name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        yield model.get_submodule(".".join(parts[:depth])), ".".join(parts[depth:])


def _places(name: str) -> list[str]:
    """`a.b.c`, `a.b`, `a` for `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
