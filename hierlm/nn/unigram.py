"""Ends of sentencepiece pieces in a byte text: what the boundary predictor of the `unigram` kind learns to foresee.

Shapes: B batch, T tokens, each a UTF-8 byte.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor


class UnigramEnds:
    """int64 [B, T] bytes -> [B, T], 1 after the last byte of each piece. The model file is read at the first call."""

    def __init__(self, model_file: str) -> None:
        self.model_file = model_file

    @cached_property
    def _processor(self) -> Any:
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_file=self.model_file)

    def __call__(self, tokens: Tensor) -> Tensor:
        rows = [self._ends(bytes(row)) for row in tokens.tolist()]
        return torch.tensor(rows, device=tokens.device)

    def _ends(self, text: bytes) -> list[int]:
        """Bytes that are no UTF-8 (a row may begin inside a character) stand for themselves, one character each."""
        decoded = text.decode("utf-8", errors="surrogateescape")
        readable = "".join("?" if "\udc80" <= character <= "\udcff" else character for character in decoded)
        marks = [0] * len(text)
        for piece in self._processor.encode(readable, return_type="proto").pieces:
            if piece.end > piece.begin:  # in bytes
                marks[piece.end - 1] = 1
        return marks
