"""Ends of sentencepiece pieces in a byte text: what the boundary predictor of the `unigram` kind learns to foresee.

Shapes: B batch, T tokens, each a UTF-8 byte.
"""

import os
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

WordEnd = Literal["letter", "space"]
SPACE = b" "


class UnigramEnds:
    """int64 [B, T] bytes -> [B, T], 1 where a piece ends. The model file is read at the first call.

    A word's last piece ends at its last letter, or with `word_end` "space" at the space after it, as in the reference
    code (2211.09761), so that every space is an end. A piece that reaches the end of its row ends nowhere: how it goes
    on is in another row.
    """

    def __init__(self, model_file: str, *, word_end: WordEnd) -> None:
        self.model_file, self.word_end = model_file, word_end

    @property
    def is_at_hand(self) -> bool:
        """Whether the file is here: a trained model needs it no more, and may be used where it is not."""
        return os.path.exists(self.model_file)

    @cached_property
    def _processor(self) -> Any:
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_file=self.model_file)

    def __call__(self, tokens: Tensor) -> Tensor:
        marks_of = self._at_letters if self.word_end == "letter" else self._at_spaces
        return torch.tensor([marks_of(bytes(row)) for row in tokens.tolist()], device=tokens.device)

    def _at_letters(self, text: bytes) -> list[int]:
        marks = [0] * len(text)
        (ends,) = self._ends_of([text])
        for end in ends:
            if end < len(text):
                marks[end - 1] = 1
        return marks

    def _at_spaces(self, text: bytes) -> list[int]:
        """Each word by itself; before each but the first there is a space, from which the code counts its pieces.

        So in the first word, which has none, a piece that is not the last ends one letter late: kept as it is there.
        """
        marks, words, start = [0] * len(text), text.split(SPACE), 0
        for index, (word, ends) in enumerate(zip(words, self._ends_of(words), strict=True)):
            for end in ends[:-1]:
                marks[start + end - (index > 0)] = 1
            start += len(word)
            if start < len(text):
                marks[start] = 1  # the space
            start += len(SPACE)
        return marks

    def _ends_of(self, texts: list[bytes]) -> list[list[int]]:
        """For each text, after how many bytes each of its pieces ends."""
        found = self._processor.encode([_readable(text) for text in texts], return_type="proto")
        return [[piece.end for piece in text.pieces if piece.end > piece.begin] for text in found]


def _readable(text: bytes) -> str:
    """Bytes that are no UTF-8 (a row may begin inside a character) stand for themselves, one character each."""
    decoded = text.decode("utf-8", errors="surrogateescape")
    return "".join("?" if "\udc80" <= character <= "\udcff" else character for character in decoded)
