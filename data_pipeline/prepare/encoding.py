"""Pieces to tokens in parallel processes, in order, with a bounded number in flight.

Every text is decoded again where it was encoded, and compared: what does not come back is told with its piece.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.prepare.lossless import Change, Encoding, encoded_text
from data_pipeline.prepare.pieces import Piece, Position
from data_pipeline.tokenize.tokenizer import Tokenizer, Tokens, tokenizer_from
from data_pipeline.tokenize.words import count_words

IN_FLIGHT_PER_WORKER = 4

_tokenizer: Tokenizer | None = None  # of a worker process


class Encoded(NamedTuple):
    """The tokens of one piece; `document_ends` are token positions one past each document's last token."""

    split: str
    tokens: Tokens
    document_ends: NDArray[np.int64]
    start: Position
    after: Position
    source_bytes: int
    words: int
    changed: tuple[Position, Change] | None = None  # the first text that does not come back; then sizes are of tokens


class Size(NamedTuple):
    """Of the text of a piece; the text itself is dropped while the piece is being encoded."""

    source_bytes: int
    words: int

    @classmethod
    def of(cls, piece: Piece) -> "Size":
        return cls(len(piece.data), count_words(piece.data, document_ends=piece.document_ends))


def encode_pieces(stream: Iterator[Piece], *, tokenizer: Tokenizer, workers: int) -> Iterator[Encoded]:
    """Every piece in order; the output does not depend on `workers`. One worker encodes in this process."""
    if workers == 1:
        for piece in stream:
            yield _encoded(piece, Size.of(piece), encoded_text(tokenizer, piece.data, piece.document_ends))
        return
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),  # fork is unsafe beside a progress thread
        initializer=_start_worker,
        initargs=(tokenizer.kind, tokenizer.model),  # whether it may be used has been decided
    ) as pool:
        try:
            yield from _in_order(pool, stream, limit=workers * IN_FLIGHT_PER_WORKER)
        except BrokenProcessPool:
            raise RuntimeError("an encoding process died (killed, or out of memory); run again with --resume") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, stream: Iterator[Piece], *, limit: int) -> Iterator[Encoded]:
    flying: deque[tuple[Piece, Size, Future[Any]]] = deque()
    for piece in stream:
        future = pool.submit(_encode_in_worker, piece.data, piece.document_ends)
        flying.append((piece._replace(data=b""), Size.of(piece), future))
        if len(flying) >= limit:
            yield _landed(flying)
    while flying:
        yield _landed(flying)


def _landed(flying: "deque[tuple[Piece, Size, Future[Any]]]") -> Encoded:
    piece, size, future = flying.popleft()
    return _encoded(piece, size, future.result())


def _encoded(piece: Piece, size: Size, encoding: Encoding) -> Encoded:
    tokens, ends, change = encoding
    if change is None:
        return Encoded(piece.split, tokens, ends, piece.start, piece.after, *size)
    changed = (piece.position(change.offset), change)
    return Encoded(piece.split, tokens, ends, piece.start, piece.after, change.held_bytes, change.held_words, changed)


def _encode_in_worker(data: bytes, document_ends: tuple[int, ...]) -> Encoding:
    assert _tokenizer is not None
    return encoded_text(_tokenizer, data, document_ends)


def _start_worker(kind: str, model: bytes) -> None:
    global _tokenizer  # noqa: PLW0603 - one tokenizer per process, loaded once
    _tokenizer = tokenizer_from(kind, model, where=kind, allow_lossy=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """A killed parent leaves its workers waiting on a queue that they hold open themselves."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
