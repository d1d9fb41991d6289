"""The messages of one rank, counted where torch hands them to the backend."""

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Messages(TorchDispatchMode):
    """While entered, in the backward pass too: how often each kind was sent, and how many numbers it held here."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.numbers: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = operator.name().partition("::")
        if namespace == "c10d" and args:
            kind = name.partition(".")[0].strip("_").replace("_base", "").strip("_")
            self.count[kind] += 1
            first = args[0]
            tensors = first if isinstance(first, list | tuple) else [first]
            self.numbers[kind] += sum(t.numel() for t in tensors if hasattr(t, "numel"))
        return operator(*args, **(kwargs or {}))
