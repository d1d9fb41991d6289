"""A sentencepiece model with byte fallback (Kudo & Richardson, 1808.06226), trained here or given."""

import re
from functools import cached_property
from itertools import chain

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.tokenize.tokenizer import SPACE_MARK, PieceTokenizer, Tokens, dtype_for, told_in_one_line

_LINE = re.compile("[^\n]*\n|[^\n]+")


class SentencePieceTokenizer(PieceTokenizer):
    """DataError when the model cannot be read or cannot be lossless."""

    kind = "sentencepiece"

    def __init__(self, model: bytes, *, where: str, allow_lossy: bool = False) -> None:
        import sentencepiece

        self.model, self._where = model, where
        with told_in_one_line(where, "not a sentencepiece model"):
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.vocab_size = self._processor.get_piece_size()
            self._require_pieces()
            self._byte_ids = self._find_byte_ids(where)
            self._knows_spaces = not self._processor.is_unknown(self._processor.piece_to_id(SPACE_MARK))
        if not allow_lossy:
            self._require_lossless(where)

    def _find_byte_ids(self, where: str) -> Tokens:
        ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        if not all(self._processor.is_byte(token) for token in ids):
            raise DataError(f"{where}: the model has no byte fallback, so it cannot keep every text; train one with it")
        return np.array(ids, dtype=dtype_for(self.vocab_size))

    def _encode_plain(self, text: str) -> list[int]:
        """Line by line where that gives the same tokens: the library slows down on long text."""
        with told_in_one_line(self._where, "the model cannot encode a text"):
            if not self._lines_stand_alone:
                ids: list[int] = self._processor.encode(text)
                return ids
            lines = _LINE.findall(text)
            return list(chain.from_iterable(self._processor.encode(lines, num_threads=1)))

    @cached_property
    def _lines_stand_alone(self) -> bool:
        """No learned piece goes on after a line end."""
        return not any(b"\n" in piece[:-1] for piece in self._pieces)

    def _piece(self, token: int) -> bytes:
        text: str = self._processor.id_to_piece(token)
        if self._processor.is_byte(token):
            return bytes([int(text[3:5], 16)])
        if self._processor.is_control(token) or self._processor.is_unknown(token):
            return b""
        return text.replace(SPACE_MARK, " ").encode()
