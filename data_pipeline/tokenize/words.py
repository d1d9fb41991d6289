"""How many words a text has: the denominator of word-level perplexity."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from data_pipeline.tokenize.tokenizer import Tokenizer, Tokens

_IS_SPACE = bytes(not bytes([value]).split() for value in range(256))
"""Of every byte: 1 where `bytes.split` takes it for whitespace."""


def count_words(text: bytes, *, document_ends: Sequence[int] = ()) -> int:
    """Words of `text` as in WikiText: runs of bytes that are no ASCII whitespace; the end of a document ends a word.

    `document_ends` are byte offsets one past each document. A line too long for one piece (256 KiB) may have a word
    counted in both pieces it was cut into. No word is made: they are counted where they begin.
    """
    is_space = np.frombuffer(text.translate(_IS_SPACE), dtype=np.bool_)
    may_begin = np.ones(len(text) + 1, dtype=np.bool_)
    may_begin[1:] = is_space
    may_begin[list(document_ends)] = True
    return int(np.count_nonzero(may_begin[:-1] > is_space))


def count_words_of_tokens(tokens: Tokens, *, document_ends: Sequence[int], tokenizer: Tokenizer) -> int:
    """The same of encoded text; `document_ends` are token positions."""
    parts = pairwise((0, *(end for end in document_ends if end < len(tokens)), len(tokens)))
    return sum(count_words(tokenizer.decode(tokens[start:stop].tolist())) for start, stop in parts)
