"""Optional judgements of whole documents that need no knowledge of the language, and removal of duplicates.

Line repetition after Rae et al. 2021 (2112.11446, appendix A.1.1); the compressed share finds what repeats otherwise.
Near duplicates: MinHash with banded locality-sensitive hashing (Broder 1997; Lee et al. 2022, 2107.06499).
"""

import hashlib
import re
import zlib
from dataclasses import dataclass
from typing import Any, Literal

from data_pipeline.errors import DataError

Deduplicate = Literal["none", "exact", "near"]
SHINGLE_WORDS = 5
NUM_PERMUTATIONS = 128
_WORD = re.compile(rb"\S+")


@dataclass(frozen=True)
class Filters:
    """All off by default; every one counts what it leaves out. Shares are in [0, 1]."""

    min_document_bytes: int = 0
    max_repeated_line_share: float | None = None  # of the bytes, in lines that occurred before in the document
    min_compressed_share: float | None = None  # zlib size over size: below it, mostly repetition
    max_compressed_share: float | None = None  # above it, mostly noise
    deduplicate: Deduplicate = "none"
    near_threshold: float = 0.8  # estimated Jaccard similarity of word 5-grams


class DocumentFilters:
    """Judges documents one after another; remembers those it kept when duplicates are to go.

    Memory grows with the number of kept documents: about 100 bytes each for exact, 2 kB each for near duplicates.
    """

    def __init__(self, filters: Filters) -> None:
        self._filters = filters
        self._seen: set[bytes] = set()
        self._near = _NearDuplicates(filters.near_threshold) if filters.deduplicate == "near" else None

    @property
    def any(self) -> bool:
        return self._filters != Filters(near_threshold=self._filters.near_threshold)

    def reason(self, data: bytes) -> str | None:
        """Why `data` is to be left out, None to keep it."""
        return self._quality(data) or self._duplicate(data)

    def _quality(self, data: bytes) -> str | None:
        limits = self._filters
        if len(data) < limits.min_document_bytes:
            return "too short"
        if limits.max_repeated_line_share is not None and repeated_line_share(data) > limits.max_repeated_line_share:
            return "repeated lines"
        if limits.min_compressed_share is None and limits.max_compressed_share is None:
            return None
        share = compressed_share(data)
        if limits.min_compressed_share is not None and share < limits.min_compressed_share:
            return "repetition"
        if limits.max_compressed_share is not None and share > limits.max_compressed_share:
            return "noise"
        return None

    def _duplicate(self, data: bytes) -> str | None:
        if self._filters.deduplicate == "none":
            return None
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest in self._seen:
            return "exact duplicate"
        self._seen.add(digest)
        return "near duplicate" if self._near and self._near.seen(data) else None


def repeated_line_share(data: bytes) -> float:
    """Share of the bytes that are in lines which occurred before; empty lines do not count."""
    lines = [line for line in data.splitlines() if line.strip()]
    total = sum(map(len, lines))
    return 1 - sum(map(len, set(lines))) / total if total else 0.0


def compressed_share(data: bytes) -> float:
    """Size after zlib over size before."""
    return len(zlib.compress(data, 1)) / len(data)


def shingles(data: bytes) -> set[bytes]:
    """Overlapping runs of SHINGLE_WORDS words; one shorter document is one run."""
    words = _WORD.findall(data.lower())
    count = max(len(words) - SHINGLE_WORDS + 1, 1)
    return {b" ".join(words[start : start + SHINGLE_WORDS]) for start in range(count)}


class _NearDuplicates:
    """What was kept, by MinHash signature."""

    def __init__(self, threshold: float) -> None:
        try:
            import datasketch
        except ImportError:
            raise DataError("--deduplicate near needs the datasketch library; pip install datasketch") from None
        self._minhash: Any = datasketch.MinHash
        self._index: Any = datasketch.MinHashLSH(threshold=threshold, num_perm=NUM_PERMUTATIONS)
        self._threshold = threshold
        self._signatures: list[Any] = []

    def seen(self, data: bytes) -> bool:
        """Whether something kept is that similar; if not, this is remembered."""
        signature = self._minhash(num_perm=NUM_PERMUTATIONS, seed=1)
        signature.update_batch(sorted(shingles(data)))
        candidates = self._index.query(signature)
        if any(signature.jaccard(self._signatures[number]) >= self._threshold for number in candidates):
            return True
        self._index.insert(len(self._signatures), signature)
        self._signatures.append(signature)
        return False
