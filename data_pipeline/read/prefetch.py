"""Batches read ahead of the step that needs them, on a thread, and copied to a GPU meanwhile."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from data_pipeline.read.rows import Request

_POLL_SECONDS = 0.1


class Movable(Protocol):
    """A batch of any kind: it says what of it belongs on the device."""

    def moved(self, move: Callable[[Tensor], Tensor]) -> Self: ...
    def on_device(self) -> list[Tensor]: ...


B = TypeVar("B", bound=Movable)


class Prefetcher(Generic[B]):
    """Reads batches in order on a background thread, at most `depth` ahead; depth 0 reads when asked.

    An error of the reader is raised where the batch was due. Iterate it, and `close()` it or use it as a context.
    With a CUDA `device` what belongs there comes there, copied while the steps before are computed.
    """

    def __init__(
        self,
        read: Callable[[Request], B],
        requests: Iterator[Request],
        depth: int,
        *,
        device: torch.device | None = None,
    ) -> None:
        self.wait_seconds = 0.0  # of the last batch
        self._read, self._requests = read, requests
        self._copies = _CopiesAhead(device) if device is not None and device.type == "cuda" else None
        self._closed = threading.Event()
        self._ready: queue.Queue[B | _OnTheWay[B] | BaseException] = queue.Queue(maxsize=max(depth, 1))
        self._exhausted: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="data-prefetch", daemon=True) if depth else None
        if self._thread:
            self._thread.start()

    def __iter__(self) -> "Prefetcher[B]":
        return self

    def __next__(self) -> B:
        began = time.perf_counter()
        try:
            item = self._take() if self._thread else self._next_item()
        finally:
            self.wait_seconds = time.perf_counter() - began
        if isinstance(item, BaseException):
            self._exhausted = item
            raise item
        return item.arrived() if isinstance(item, _OnTheWay) else item

    def close(self) -> None:
        """Stop the thread and drop what it read ahead."""
        self._closed.set()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)

    def __enter__(self) -> "Prefetcher[B]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self) -> "B | _OnTheWay[B] | BaseException":
        if self._exhausted is not None:
            return self._exhausted
        while True:
            try:
                return self._ready.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if self._closed.is_set():
                    raise RuntimeError("the prefetcher is closed") from None

    def _next_item(self) -> "B | _OnTheWay[B] | BaseException":
        """The next batch, or what ends the sequence: StopIteration or the reader's error."""
        try:
            batch = self._read(next(self._requests))
            return batch if self._copies is None else self._copies.begin(batch)
        except BaseException as error:
            return error

    def _work(self) -> None:
        item: B | _OnTheWay[B] | BaseException | None = None
        while not isinstance(item, BaseException) and not self._closed.is_set():
            item = self._next_item()
            self._offer(item)

    def _offer(self, item: "B | _OnTheWay[B] | BaseException") -> None:
        while not self._closed.is_set():
            try:
                return self._ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue


@dataclass(frozen=True)
class _OnTheWay(Generic[B]):
    """A batch that is being copied to a GPU."""

    batch: B
    copied: torch.cuda.Event

    def arrived(self) -> B:
        """The batch, for the stream this thread works on, which waits for the copy; this thread does not."""
        tensors = self.batch.on_device()
        stream = torch.cuda.current_stream(tensors[0].device)
        stream.wait_event(self.copied)
        for tensor in tensors:
            tensor.record_stream(stream)  # its memory belongs to the stream of the copies
        return self.batch


class _CopiesAhead:
    """Copies to a GPU on a stream of their own, so that none waits for the step that is being computed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def begin(self, batch: B) -> _OnTheWay[B]:
        """Returns at once: only from pinned memory does a copy run beside anything else."""
        with torch.cuda.stream(self._stream):
            moved = batch.moved(lambda tensor: tensor.pin_memory().to(self._device, non_blocking=True))
            return _OnTheWay(moved, self._stream.record_event())
