"""Bytes to tokens and back. Without loss, decode(encode(text)) == text: preparation checks it for every text."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import DataError
from data_pipeline.remote import read_file
from data_pipeline.shard_index import Dtype, TokenizerRecord

Tokens = NDArray[Any]
MODEL_FILES = {"sentencepiece": "tokenizer.model", "huggingface": "tokenizer.json"}
LOSSY_REMEDY = "--allow-lossy counts the bytes that the tokens hold instead"
SPACE_MARK = "\u2581"  # such vocabularies write a space as this character, so a real one must go round it as bytes


def dtype_for(vocab_size: int) -> Dtype:
    """The narrowest type that holds every token."""
    if vocab_size <= 2**8:
        return "uint8"
    return "uint16" if vocab_size <= 2**16 else "uint32"


def fingerprint_of(kind: str, model: bytes) -> str:
    """sha256 of the kind and the model's own bytes: equal fingerprints give equal tokens."""
    return hashlib.sha256(kind.encode(errors="surrogatepass") + b"\0" + model).hexdigest()


@contextmanager
def told_in_one_line(where: str, what: str) -> Iterator[None]:
    """The libraries raise bare Exceptions, and where Rust panics, something that is not even one."""
    try:
        yield
    except (DataError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise DataError(f"{where}: {what} ({' '.join(str(error).split())[:200]})") from None


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
        try:
            return bytes(bytearray(int(token) for token in tokens))
        except ValueError:
            raise DataError(_not_a_token(self.vocab_size)) from None

    def num_bytes(self, tokens: Tokens) -> int:
        return len(tokens)


def _not_a_token(vocab_size: int) -> str:
    return f"a token is outside the vocabulary of {vocab_size}; `hierlm data verify` lists all damage of a dataset"


class PieceTokenizer(ABC):
    """A learned vocabulary of pieces that holds every single byte too; what is no plain text travels as bytes.

    A subclass sets the fields, then calls `_require_lossless`, which looks at one text: preparation looks at all.
    """

    kind: str
    vocab_size: int
    model: bytes
    _byte_ids: Tokens  # [256]
    _knows_spaces = True
    """Else its text had none, or next to none, and the library would write the space mark's own bytes for one."""

    @abstractmethod
    def _encode_plain(self, text: str) -> list[int]:
        """The pieces of text that holds neither raw bytes nor the space mark."""

    @abstractmethod
    def _piece(self, token: int) -> bytes:
        """The bytes a token stands for."""

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.kind, self.model)

    def encode(self, text: bytes) -> Tokens:
        dtype = self._byte_ids.dtype
        if (plain := self._plain(text)) is not None:
            return np.array(self._encode_plain(plain), dtype=dtype)
        parts = self._not_plain.split(text.decode("utf-8", "surrogateescape"))  # plain, not plain, plain, ...
        encoded = [self._raw(part) if odd % 2 else self._encode_plain(part) for odd, part in enumerate(parts) if part]
        return np.concatenate(encoded, dtype=dtype, casting="unsafe")

    def _raw(self, text: str) -> Tokens:
        return self._byte_ids[np.frombuffer(text.encode("utf-8", "surrogateescape"), dtype=np.uint8)]

    def _plain(self, text: bytes) -> str | None:
        """The text where nothing in it has to go round the vocabulary as bytes; told faster than by searching it."""
        if SPACE_MARK.encode() in text or (not self._knows_spaces and b" " in text):
            return None
        try:
            return text.decode()
        except UnicodeDecodeError:
            return None

    @cached_property
    def _not_plain(self) -> re.Pattern[str]:
        space = "" if self._knows_spaces else " "
        return re.compile(f"([\udc80-\udcff{SPACE_MARK}{space}]+)")

    def decode(self, tokens: Iterable[int]) -> bytes:
        """DataError for a number that is no token. An array is decoded three times as fast as a list."""
        numbers = tokens if isinstance(tokens, np.ndarray) else np.fromiter(tokens, dtype=np.int64)
        try:
            return b"".join(self._piece_objects[numbers].tolist())
        except IndexError:
            raise DataError(_not_a_token(self.vocab_size)) from None

    def num_bytes(self, tokens: Tokens) -> int:
        return int(self._piece_lengths[tokens].sum())

    @cached_property
    def _pieces(self) -> list[bytes]:
        return [self._piece(token) for token in range(self.vocab_size)]

    def _require_pieces(self) -> None:
        """Make the table of pieces now, where errors are the file's; they raise whatever the library does."""
        assert len(self._pieces) == self.vocab_size

    @cached_property
    def _piece_objects(self) -> NDArray[np.object_]:
        pieces = np.empty(self.vocab_size, dtype=np.object_)
        pieces[:] = self._pieces
        return pieces

    @cached_property
    def _piece_lengths(self) -> NDArray[np.int64]:
        return np.array([len(piece) for piece in self._pieces], dtype=np.int64)

    def _require_lossless(self, where: str) -> None:
        """DataError when the model normalises, adds or removes what a text may well contain."""
        probe = "  two  spaces\n\n\t\uff26ull \ufb01 e\u0301 \u00a0x  "
        given = self.decode(self.encode(probe.encode()).tolist()).decode(errors="replace")
        if given != probe:
            raise DataError(
                f"{where}: the tokenizer changes text ({probe!r} comes back as {given!r}); it must be made without "
                f"normalisation and without adding or removing spaces, or {LOSSY_REMEDY}"
            )


def tokenizer_from(kind: str, model: bytes, *, where: str, allow_lossy: bool = False) -> Tokenizer:
    """The tokenizer of `kind` over its model's bytes; `where` names them in errors.

    Unless `allow_lossy`, DataError for one that is seen to change text.
    """
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "sentencepiece":
        from data_pipeline.tokenize.sentencepiece import SentencePieceTokenizer

        return SentencePieceTokenizer(model, where=where, allow_lossy=allow_lossy)
    if kind == "huggingface":
        from data_pipeline.tokenize.huggingface import HuggingFaceTokenizer

        return HuggingFaceTokenizer(model, where=where, allow_lossy=allow_lossy)
    raise DataError(f"{where}: unknown tokenizer kind {kind!r}; allowed: bytes, {', '.join(MODEL_FILES)}")


def load_tokenizer(directory: str | Path, record: TokenizerRecord, *, lossy: bool = False) -> Tokenizer:
    """The tokenizer of a prepared dataset; DataError when its file is missing or not the one used."""
    path = f"{str(directory).rstrip('/')}/{record.file}"
    try:
        model = read_file(directory, record.file) if record.file else b""
    except (OSError, ValueError) as error:  # a name may hold what no name may
        raise DataError(f"{path}: tokenizer cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if fingerprint_of(record.kind, model) != record.fingerprint:
        raise DataError(f"{path}: not the tokenizer this dataset was made with; restore the file or prepare again")
    tokenizer = tokenizer_from(record.kind, model, where=path, allow_lossy=lossy)
    if tokenizer.vocab_size != record.vocab_size:
        raise DataError(f"{path}: has {tokenizer.vocab_size} tokens, dataset.json says {record.vocab_size}")
    return tokenizer
