"""Bytes to tokens and back, without loss: decode(encode(text)) == text for every byte string."""

import hashlib
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import DataError
from data_pipeline.shard_index import Dtype, TokenizerRecord

Tokens = NDArray[Any]
MODEL_FILE = "tokenizer.model"
_SPACE = "\u2581"  # sentencepiece writes a space as this character, so a real one must go round it as bytes
_NOT_PLAIN_TEXT = re.compile("([\udc80-\udcff\u2581]+)")


def dtype_for(vocab_size: int) -> Dtype:
    """The narrowest type that holds every token."""
    if vocab_size <= 2**8:
        return "uint8"
    return "uint16" if vocab_size <= 2**16 else "uint32"


def fingerprint_of(kind: str, model: bytes) -> str:
    """sha256 of the kind and the model's own bytes: equal fingerprints give equal tokens."""
    return hashlib.sha256(kind.encode() + b"\0" + model).hexdigest()


class Tokenizer(Protocol):
    """What the pipeline and text generation need of a tokenizer."""

    kind: str
    vocab_size: int
    model: bytes

    @property
    def fingerprint(self) -> str: ...
    def encode(self, text: bytes) -> Tokens: ...
    def decode(self, tokens: Iterable[int]) -> bytes: ...
    def num_bytes(self, tokens: Tokens) -> int: ...


class ByteTokenizer:
    """Token = byte; nothing to train."""

    kind = "bytes"
    vocab_size = 256
    model = b""

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.kind, self.model)

    def encode(self, text: bytes) -> Tokens:
        return np.frombuffer(text, dtype=np.uint8)

    def decode(self, tokens: Iterable[int]) -> bytes:
        return bytes(bytearray(int(token) for token in tokens))

    def num_bytes(self, tokens: Tokens) -> int:
        return len(tokens)


class SentencePieceTokenizer:
    """A sentencepiece model with byte fallback; what is not plain text for it travels as byte tokens.

    Raises DataError when the model cannot be lossless.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes, *, where: str = MODEL_FILE) -> None:
        import sentencepiece

        self.model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{where}: not a sentencepiece model ({reason})") from None
        self.vocab_size: int = self._processor.get_piece_size()
        self._byte_ids = self._find_byte_ids(where)
        self._require_lossless(where)

    def _find_byte_ids(self, where: str) -> Tokens:
        ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        if not all(self._processor.is_byte(token) for token in ids):
            raise DataError(f"{where}: the model has no byte fallback, so it cannot keep every text; train one with it")
        return np.array(ids, dtype=dtype_for(self.vocab_size))

    def _require_lossless(self, where: str) -> None:
        probe = "  two  spaces\n\n\t\uff26ull \ufb01 e\u0301 \u00a0x  "
        given = self.decode(self.encode(probe.encode())).decode(errors="replace")
        if given != probe:
            raise DataError(
                f"{where}: the model changes text ({probe!r} comes back as {given!r}); it must be trained with "
                "normalization_rule_name=identity, add_dummy_prefix=false, remove_extra_whitespaces=false"
            )

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.kind, self.model)

    def encode(self, text: bytes) -> Tokens:
        plain = text.decode("utf-8", "surrogateescape")
        dtype = self._byte_ids.dtype
        if not _NOT_PLAIN_TEXT.search(plain):
            return np.array(self._processor.encode(plain), dtype=dtype)
        parts = _NOT_PLAIN_TEXT.split(plain)  # plain, not plain, plain, ...
        encoded = [self._raw(part) if odd % 2 else self._plain(part) for odd, part in enumerate(parts) if part]
        return np.concatenate(encoded) if encoded else np.empty(0, dtype=dtype)

    def _plain(self, text: str) -> Tokens:
        return np.array(self._processor.encode(text), dtype=self._byte_ids.dtype)

    def _raw(self, text: str) -> Tokens:
        return self._byte_ids[np.frombuffer(text.encode("utf-8", "surrogateescape"), dtype=np.uint8)]

    def decode(self, tokens: Iterable[int]) -> bytes:
        pieces = self._pieces
        return b"".join([pieces[token] for token in tokens])

    def num_bytes(self, tokens: Tokens) -> int:
        return int(self._piece_lengths[tokens].sum())

    @cached_property
    def _pieces(self) -> list[bytes]:
        """The bytes each token stands for."""
        return [self._piece(token) for token in range(self.vocab_size)]

    def _piece(self, token: int) -> bytes:
        text: str = self._processor.id_to_piece(token)
        if self._processor.is_byte(token):
            return bytes([int(text[3:5], 16)])
        if self._processor.is_control(token) or self._processor.is_unknown(token):
            return b""
        return text.replace(_SPACE, " ").encode()

    @cached_property
    def _piece_lengths(self) -> NDArray[np.int64]:
        return np.array([len(piece) for piece in self._pieces], dtype=np.int64)


def tokenizer_from(kind: str, model: bytes, *, where: str = MODEL_FILE) -> Tokenizer:
    """The tokenizer of `kind` over its model's bytes."""
    if kind == ByteTokenizer.kind:
        return ByteTokenizer()
    if kind == SentencePieceTokenizer.kind:
        return SentencePieceTokenizer(model, where=where)
    raise DataError(f"{where}: unknown tokenizer kind {kind!r}; allowed: bytes, sentencepiece")


def load_tokenizer(directory: str | Path, record: TokenizerRecord) -> Tokenizer:
    """The tokenizer of a prepared dataset; DataError when its file is missing or not the one used."""
    path = Path(directory) / (record.file or "")
    try:
        model = path.read_bytes() if record.file else b""
    except OSError as error:
        raise DataError(f"{path}: tokenizer cannot be read ({error.strerror})") from None
    if fingerprint_of(record.kind, model) != record.fingerprint:
        raise DataError(f"{path}: not the tokenizer this dataset was made with; restore the file or prepare again")
    return tokenizer_from(record.kind, model, where=str(path))
