"""Files of tensors that are programs: each would leave a mark if anything of it ran."""

import builtins
import functools
import operator
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


class Calls:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def by_system(mark: Path) -> bytes:
    return _saying(Calls(os.system, f"touch {mark}"))


def by_eval(mark: Path) -> bytes:
    return _saying(Calls(builtins.eval, f"open({str(mark)!r}, 'w')"))


def by_load_from_bytes(mark: Path) -> bytes:
    inner = pickle.dumps(Calls(os.system, f"touch {mark}"), protocol=2)
    return _saying(Calls(torch.storage._load_from_bytes, inner))


def by_partial(mark: Path) -> bytes:
    return _saying(Calls(functools.partial(os.system, f"touch {mark}")))


def by_attributes(mark: Path) -> bytes:
    """`os.system`, found by walking there from a class."""
    known = Calls(operator.attrgetter("__init__.__globals__"), tempfile.TemporaryDirectory)
    walk = Calls(operator.attrgetter("system"), Calls(operator.itemgetter("_os"), known))
    return b"\x80\x02" + _body(walk) + _body((f"touch {mark}",)) + b"R."


def by_stack_global(mark: Path) -> bytes:
    return pickle.dumps({"module": Calls(os.system, f"touch {mark}")}, protocol=4)


def by_inst(mark: Path) -> bytes:
    return b"(S'touch " + str(mark).encode() + b"'\nios\nsystem\n."


def by_attributes_of_a_type(mark: Path) -> bytes:
    """Gives a type of ours a `__setstate__` that calls."""
    return b"\x80\x02cdeepspeed.utils.tensor_fragment\nfragment_address\n}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb."


def by_a_storage(mark: Path) -> bytes:
    """`torch.FloatStorage` called, not referred to."""
    return b"\x80\x02ctorch\nFloatStorage\nJ\xff\xff\xff\x7f\x85R."


ATTACKS: Mapping[str, Callable[[Path], bytes]] = {
    name: attack for name, attack in list(globals().items()) if name.startswith("by_")
}


def _saying(call: Calls) -> bytes:
    return pickle.dumps({"module": call, "dp_world_size": 1}, protocol=2)


def _body(value: Any) -> bytes:
    """Of a pickle, without its frame."""
    return pickle.dumps(value, protocol=2)[2:-1]


def write_archive(path: Path, content: bytes, **records: bytes) -> None:
    """As torch.save would, around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", b"little")
        for name, record in records.items():
            archive.writestr(f"archive/{name}", record)
