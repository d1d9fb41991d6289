"""Bytes of live tensors, operation by operation, on real tensors or on the meta device, where they hold nothing."""

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While entered: `now` is what has been made inside and is still held by anyone, `peak` the most since `restart`.

    A storage counts once however many views it has. Inside an operation only its results count, not its workspace.
    `elsewhere` are bytes that someone else is known to hold: in `peak`, not in `peak_alone`. Since `restart`, `kernels`
    results that are no views were made, of `made` bytes together.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.peak_alone = self.elsewhere = self.made = self.kernels = 0
        self._known: dict[int, weakref.ref[Any] | None] = {}
        self._kept_alive: list[Any] = []

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """These were there before (weights, tokens)."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._kept_alive.append(storage)  # so that its key stays its own
            self._known[storage._cdata] = None

    def restart(self) -> None:
        """Look for a new peak; nothing is held elsewhere, nothing was made."""
        self.peak = self.peak_alone = self.now
        self.elsewhere = self.made = self.kernels = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = operator(*args, **(kwargs or {}))
        for leaf in tree_leaves(results):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return results

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()

        def forget(_: object) -> None:
            if self._known.pop(key, None) is not None:
                self.now -= size

        self._known[key] = weakref.ref(storage, forget)
        self.now += size
        self.made += size
        self.kernels += 1
        self.peak_alone = max(self.peak_alone, self.now)
        self.peak = max(self.peak, self.now + self.elsewhere)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """What these tensors hold in memory, shared storages once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())
