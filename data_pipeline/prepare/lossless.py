"""Does every text come back from its tokens? Asked of each one while it is encoded, where it is encoded.

A probe cannot tell: what a tokenizer strips, replaces or removes depends on what stands there, and on where the text
begins and ends. So the property is checked itself: the decoded tokens of a text are the text.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import DataError
from data_pipeline.prepare.pieces import Group, Position
from data_pipeline.tokenize.tokenizer import LOSSY_REMEDY, Tokenizer, Tokens
from data_pipeline.tokenize.words import count_words

SHOWN_BYTES = 60
SHOWN_BEFORE = 20  # of them before the first difference


class Change(NamedTuple):
    """The first text of a piece that does not come back: its bytes from `offset` on, and what they became.

    `held_bytes` and `held_words` are of all that the tokens of the piece decode to.
    """

    offset: int
    given: str
    came_back: str
    held_bytes: int
    held_words: int


class Encoding(NamedTuple):
    """The tokens of a piece; `document_ends` are token positions one past each document's last token."""

    tokens: Tokens
    document_ends: NDArray[np.int64]
    change: Change | None


def encoded_text(tokenizer: Tokenizer, data: bytes, document_ends: Sequence[int]) -> Encoding:
    """Encode each document on its own, so that no token spans two, and compare what its tokens decode to."""
    cuts = [0, *document_ends]
    if cuts[-1] != len(data):
        cuts.append(len(data))
    texts = [data[start:stop] for start, stop in pairwise(cuts)]
    parts = [tokenizer.encode(text) for text in texts]
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)[: len(document_ends)]
    tokens = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if tokenizer.kind == "bytes":  # its tokens are the text
        return Encoding(tokens, ends, None)
    decoded = [tokenizer.decode(part) for part in parts]
    change = _change(cuts, texts, decoded, num_documents=len(document_ends))
    if change is not None:  # a document of which nothing is left is none
        ends = ends[np.diff(ends, prepend=0) > 0]
    return Encoding(tokens, ends, change)


def _change(
    cuts: Sequence[int], texts: Sequence[bytes], decoded: Sequence[bytes], *, num_documents: int
) -> Change | None:
    found = next(
        ((n, text, back) for n, (text, back) in enumerate(zip(texts, decoded, strict=True)) if text != back), None
    )
    if found is None:
        return None
    number, text, back = found
    begin = _before(text, _first_difference(text, back))
    held = b"".join(decoded)
    ends = np.cumsum([len(part) for part in decoded[:num_documents]]).tolist()
    return Change(
        cuts[number] + begin,
        _shown(text[begin:]),
        _shown(back[begin:]),
        len(held),
        count_words(held, document_ends=ends),
    )


def _first_difference(text: bytes, back: bytes) -> int:
    shorter = min(len(text), len(back))
    a, b = (np.frombuffer(data, dtype=np.uint8, count=shorter) for data in (text, back))
    differs = np.flatnonzero(a != b)
    return int(differs[0]) if len(differs) else shorter


def _before(text: bytes, difference: int) -> int:
    """Where to begin to show a text, at a whole character; at its beginning if the difference is near that."""
    begin = max(difference - SHOWN_BEFORE, 0)
    while 0 < begin < difference and text[begin] & 0xC0 == 0x80:
        begin += 1
    return begin


def _shown(text: bytes) -> str:
    return repr(text[:SHOWN_BYTES].decode(errors="replace")) + ("..." if len(text) > SHOWN_BYTES else "")


class Losses:
    """What to do about a change: refuse the first, or, where losses are allowed, tell of it."""

    def __init__(self, groups: Sequence[Group], *, allowed: bool, say: Callable[[str], None]) -> None:
        self._groups, self._allowed, self._say = groups, allowed, say
        self._told = False

    def note(self, changed: tuple[Position, Change] | None) -> None:
        """DataError naming file, place, text and what it came back as; nothing when all came back."""
        if changed is None:
            return
        place, change = changed
        file = self._groups[place.group].files[place.file]
        where = f"{file.path}: byte {place.offset} of its text"
        what = f"the tokenizer changes text ({change.given} comes back as {change.came_back})"
        if not self._allowed:
            raise DataError(f"{where}: {what}; choose one that keeps every text, or {LOSSY_REMEDY}")
        if not self._told:
            self._say(f"{where}: {what}; bytes are counted as the tokens hold them, here and wherever else it does")
        self._told = True
