"""An existing Hugging Face `tokenizer.json`, where it can keep every text: byte-level BPE or byte fallback."""

import json
from typing import Any

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.tokenize.tokenizer import SPACE_MARK, PieceTokenizer, Tokens, dtype_for, told_in_one_line


def byte_level_alphabet() -> dict[str, int]:
    """The printable character GPT-2's byte-level BPE writes for each byte (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + order): byte for order, byte in enumerate(others)}


_ALPHABET = byte_level_alphabet()


MOST_UNUSED = 1 << 16
"""Numbers without a token, beside as many as there are tokens: a file may name any, and a table of all is made."""


class HuggingFaceTokenizer(PieceTokenizer):
    """Wraps the `tokenizers` library. DataError when the file cannot be read or the tokenizer loses text."""

    kind = "huggingface"

    def __init__(self, model: bytes, *, where: str, allow_lossy: bool = False) -> None:
        try:
            import tokenizers
        except ImportError:
            raise DataError(f"{where}: needs the tokenizers library; pip install tokenizers") from None
        self.model = model
        self._where = where
        with told_in_one_line(where, "not a tokenizer.json"):
            self._tokenizer = tokenizers.Tokenizer.from_str(model.decode())
            self._read(json.loads(model))
        self._byte_ids = self._find_byte_ids(where)
        self._knows_spaces = self._byte_level or " " in self._vocabulary or SPACE_MARK in self._vocabulary
        if not allow_lossy:
            self._require_lossless(where)

    def _read(self, described: dict[str, Any]) -> None:
        """What the library does not tell of the file."""
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._byte_level = "ByteLevel" in json.dumps([described.get("pre_tokenizer"), described.get("decoder")])
        inside = described.get("model") or {}
        self._goes_on, self._ends_word = inside.get("continuing_subword_prefix"), inside.get("end_of_word_suffix")
        self._added = {entry["id"]: entry["content"] for entry in described.get("added_tokens", [])}
        self._vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        self._names = {token: name for name, token in self._vocabulary.items()}
        self.vocab_size = max(self._vocabulary.values(), default=0) + 1
        if self.vocab_size > 2 * len(self._vocabulary) + MOST_UNUSED:
            raise ValueError(f"{len(self._vocabulary)} tokens are numbered up to {self.vocab_size - 1}")
        self._require_pieces()

    def _find_byte_ids(self, where: str) -> Tokens:
        names = _ALPHABET if self._byte_level else {f"<0x{byte:02X}>": byte for byte in range(256)}
        ids = {byte: self._vocabulary.get(name) for name, byte in names.items()}
        if None in ids.values():
            raise DataError(f"{where}: the vocabulary lacks single bytes, so the tokenizer cannot keep every text")
        return np.array([ids[byte] for byte in range(256)], dtype=dtype_for(self.vocab_size))

    def _encode_plain(self, text: str) -> list[int]:
        with told_in_one_line(self._where, "the tokenizer cannot encode a text"):
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _piece(self, token: int) -> bytes:
        name: str = self._names.get(token, "")
        if token in self._added:
            return str(self._added[token]).encode()
        if self._ends_word and name.endswith(self._ends_word):  # a mark in the vocabulary, no text
            return self._text(name.removesuffix(self._ends_word)) + b" "
        return self._text(name.removeprefix(self._goes_on or ""))

    def _text(self, name: str) -> bytes:
        if self._byte_level and _ALPHABET.keys() >= set(name):
            return bytes(_ALPHABET[character] for character in name)
        if len(name) == 6 and name.startswith("<0x"):
            return bytes([int(name[3:5], 16)])
        return name.replace(SPACE_MARK, " ").encode()
