"""The few words of a pickle that a checkpoint is made of, read by a machine of our own. Torch-free.

A pickle is a program: whoever unpickles it calls what it names. Here nothing is ever looked up or called by a name of
the file. The operations that torch.save writes of plain data are carried out on plain data, the names in `_MEANINGS`
stand for what we make of them, and any other name or operation ends the reading. So `hierlm checkpoint verify`, which
has no torch, judges a file by exactly what a load would make of it.
"""

import math
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

ITEM_BYTES: Final = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Of the types of numbers that tensors may have."""

_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


class NotPlainError(ValueError):
    """What the file holds beside plain data; one clause."""


@dataclass(frozen=True)
class Numbers:
    """Where a tensor's values lie: `count` of a type, in the record `key` of the archive."""

    key: str
    kind: str
    count: int


class Strided(NamedTuple):
    """A tensor, as the file describes it; checked to lie inside its numbers."""

    numbers: Numbers
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


MakeTensor = Callable[[Strided], Any]


class Sealed:
    """An object of the engine's: its attributes as data, and no method of its class."""


@dataclass(frozen=True)
class _Word:
    """A name of `_MEANINGS`, on the stack."""

    name: str


def read_plain(content: bytes, *, tensor: MakeTensor) -> Any:
    """What a pickle of plain data holds, its tensors made by `tensor`. NotPlainError for any other pickle."""
    machine = _Machine(tensor)
    try:
        for operation, argument, _ in pickletools.genops(content):
            step = _STEPS.get(operation.name)
            if step is None:
                raise NotPlainError(f"has the operation {operation.name}, which plain data does not need")
            step(machine, argument)
        return machine.result()
    except NotPlainError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:  # of an operation, or of its operands
        raise NotPlainError(f"is no whole pickle of plain data ({type(error).__name__})") from None


class _Machine:
    """The stack of a pickle and what it has put aside."""

    def __init__(self, tensor: MakeTensor) -> None:
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.tensor = tensor

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.marked.pop()
        return values

    def tuple_of(self, count: int) -> None:
        values = self.stack[len(self.stack) - count :]
        if len(values) != count:
            raise IndexError(count)
        self.stack[len(self.stack) - count :] = [tuple(values)]

    def extend(self, values: list[Any]) -> None:
        _plain(self.stack[-1], list).extend(values)

    def update(self, values: list[Any]) -> None:
        target = _plain(self.stack[-1], dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[key] = value

    def named(self, word: str) -> None:
        if word not in _MEANINGS:
            raise NotPlainError(f"names {'.'.join(word.split())}, which no checkpoint holds")
        self.push(_Word(word))

    def called(self) -> None:
        arguments, word = self.pop(), self.pop()
        if not isinstance(word, _Word) or not isinstance(arguments, tuple):
            raise NotPlainError("calls what is no name")
        self.push(_MEANINGS[word.name](self, arguments))

    def filled(self) -> None:
        """An object's attributes; those of a state dict (its `_metadata`) say nothing to us."""
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Sealed) and isinstance(state, dict) and all(map(_is_attribute, state)):
            vars(target).update(state)
        elif not isinstance(target, OrderedDict):
            raise NotPlainError("gives attributes to what has none")

    def stored(self) -> None:
        kind, word, key, _, count = self.pop()
        is_known = kind == "storage" and isinstance(word, _Word) and isinstance(key, str) and _is_size(count)
        if not is_known or (numbers := _STORAGES.get(word.name.partition(" ")[2])) is None:
            raise NotPlainError("refers to what is no tensor's storage")
        self.push(Numbers(key, numbers, count))

    def result(self) -> Any:
        (whole,) = self.stack
        return whole


def _plain(target: Any, kind: type) -> Any:
    if not isinstance(target, kind):
        raise NotPlainError("fills what is no container")
    return target


def _is_attribute(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier() and not name.startswith("__")


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 0


def _strided(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    numbers, offset, shape, strides, *_ = arguments
    sizes = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
    if not (isinstance(numbers, Numbers) and sizes and all(map(_is_size, (offset, *shape, *strides)))):
        raise NotPlainError("describes a tensor that cannot be")
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and (offset + reach >= numbers.count or math.prod(shape) > numbers.count):
        raise NotPlainError("describes a tensor that reaches beyond its values")
    return machine.tensor(Strided(numbers, offset, shape, strides))


def _tensor_with_attributes(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    """ZeRO 3 hangs attributes on its tensors, which torch then saves: they are left behind."""
    function, kind, inner, _ = arguments
    if function != _Word(_TENSOR) or kind != _Word("torch Tensor"):
        raise NotPlainError("describes a tensor of a kind of its own")
    return _strided(machine, inner)


def _first(_: _Machine, arguments: tuple[Any, ...]) -> Any:
    return arguments[0]


def _number(_: _Machine, arguments: tuple[Any, ...]) -> int:
    (value,) = arguments
    if type(value) is not int:
        raise NotPlainError("has a stage that is no number")
    return value


def _shape(_: _Machine, arguments: tuple[Any, ...]) -> tuple[int, ...]:
    (sizes,) = arguments
    if not isinstance(sizes, tuple) or not all(map(_is_size, sizes)):
        raise NotPlainError("has a shape that cannot be")
    return sizes


def _nothing_to_call(_: _Machine, arguments: tuple[Any, ...]) -> Any:
    raise NotPlainError("calls a name that stands for a type")


_TENSOR = "torch._utils _rebuild_tensor_v2"
_SEALED = frozenset(
    {"deepspeed.utils.tensor_fragment fragment_address", "deepspeed.runtime.fp16.loss_scaler LossScaler"}
)
_MEANINGS: Mapping[str, Callable[[_Machine, tuple[Any, ...]], Any]] = {
    "collections OrderedDict": lambda _, arguments: OrderedDict(*arguments),
    "__builtin__ set": lambda _, arguments: set(*arguments),
    "torch Size": _shape,
    "torch Tensor": _nothing_to_call,
    _TENSOR: _strided,
    "torch._utils _rebuild_parameter": _first,
    "torch._tensor _rebuild_from_type_v2": _tensor_with_attributes,
    "deepspeed.runtime.zero.config ZeroStageEnum": _number,
    **dict.fromkeys(_SEALED, _nothing_to_call),
    **{f"torch {name}": _nothing_to_call for name in _STORAGES},
}
"""All that a file may name, and what it gets when it calls it."""


def _new_object(machine: _Machine, _: Any) -> None:
    arguments, word = machine.pop(), machine.pop()
    if not isinstance(word, _Word) or word.name not in _SEALED or arguments != ():
        raise NotPlainError("makes an object of a class that no checkpoint holds")
    machine.push(Sealed())


def _recall(machine: _Machine, argument: int) -> None:
    machine.push(machine.memo[argument])


def _remember(machine: _Machine, argument: int) -> None:
    machine.memo[argument] = machine.stack[-1]


def _pair(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.update([key, value])


def _item(machine: _Machine, _: Any) -> None:
    value = machine.pop()
    machine.extend([value])


_CONSTANTS = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE")
_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, argument: None,
    "STOP": lambda machine, argument: None,
    **dict.fromkeys(_CONSTANTS, lambda machine, argument: machine.push(argument)),
    "NONE": lambda machine, argument: machine.push(None),
    "NEWTRUE": lambda machine, argument: machine.push(True),
    "NEWFALSE": lambda machine, argument: machine.push(False),
    "EMPTY_DICT": lambda machine, argument: machine.push({}),
    "EMPTY_LIST": lambda machine, argument: machine.push([]),
    "EMPTY_TUPLE": lambda machine, argument: machine.push(()),
    "MARK": lambda machine, argument: machine.mark(),
    "TUPLE": lambda machine, argument: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, argument: machine.tuple_of(1),
    "TUPLE2": lambda machine, argument: machine.tuple_of(2),
    "TUPLE3": lambda machine, argument: machine.tuple_of(3),
    "APPEND": _item,
    "APPENDS": lambda machine, argument: machine.extend(machine.since_mark()),
    "SETITEM": _pair,
    "SETITEMS": lambda machine, argument: machine.update(machine.since_mark()),
    "BINPUT": _remember,
    "LONG_BINPUT": _remember,
    "BINGET": _recall,
    "LONG_BINGET": _recall,
    "GLOBAL": lambda machine, argument: machine.named(argument),
    "REDUCE": lambda machine, argument: machine.called(),
    "NEWOBJ": _new_object,
    "BUILD": lambda machine, argument: machine.filled(),
    "BINPERSID": lambda machine, argument: machine.stored(),
}
"""What torch.save writes of plain data (pickle's protocol 2)."""
