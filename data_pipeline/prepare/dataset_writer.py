"""Encoded pieces to shards of exactly `shard_tokens` tokens each (the last of a split shorter), journalled."""

from pathlib import Path

import numpy as np

from data_pipeline.prepare.encoding import Encoded
from data_pipeline.prepare.journal import PartJournal, PartState
from data_pipeline.prepare.pieces import Position
from data_pipeline.prepare.shard_writer import ShardWriter
from data_pipeline.shard_index import Dtype, ShardRecord
from data_pipeline.tokenize.tokenizer import Tokenizer
from data_pipeline.tokenize.words import count_words_of_tokens


class DatasetWriter:
    """Takes pieces in order, beginning at `state`; every finished shard is in the journal before the next begins."""

    def __init__(
        self,
        folder: Path,
        *,
        tokenizer: Tokenizer,
        dtype: Dtype,
        shard_tokens: int,
        chunk_tokens: int,
        journal: PartJournal,
        state: PartState,
        first_number: int = 0,
    ) -> None:
        self._folder, self._tokenizer, self._dtype, self._journal = folder, tokenizer, dtype, journal
        self._shard_tokens, self._chunk_tokens = shard_tokens, chunk_tokens
        self._shards, self._first_number = state.shards, first_number
        self._skip_tokens = state.skip_tokens
        self._shard: ShardWriter | None = None
        self._split = ""

    def add(self, piece: Encoded) -> int:
        """Write one piece; returns how many of its tokens were new (a resumed piece may be partly written)."""
        if self._shard and piece.split != self._split:
            self._finish_shard(position=piece.start, skip_tokens=0)
        self._split = piece.split
        done = first = self._skip_tokens
        self._skip_tokens = 0
        while done < len(piece.tokens):
            done = self._add_part(piece, done)
        return len(piece.tokens) - first

    def finish(self, *, position: Position) -> None:
        """Close the last shard and the journal."""
        if self._shard:
            self._finish_shard(position=position, skip_tokens=0)
        self._journal.part_finished()

    def abandon(self) -> None:
        """Leave the unfinished shard without a name."""
        if self._shard:
            self._shard.abandon()

    def _add_part(self, piece: Encoded, done: int) -> int:
        shard = self._shard = self._shard or self._new_shard()
        stop = min(len(piece.tokens), done + self._shard_tokens - shard.tokens)
        inside = (piece.document_ends > done) & (piece.document_ends <= stop)
        shard.add(
            piece.tokens[done:stop],
            piece.document_ends[inside] - done,
            source_bytes=self._source_bytes(piece, done, stop),
            words=self._words_before(piece, stop) - self._words_before(piece, done),
        )
        if shard.tokens == self._shard_tokens:
            if stop == len(piece.tokens):
                self._finish_shard(position=piece.after, skip_tokens=0)
            else:
                self._finish_shard(position=piece.start, skip_tokens=stop)
        return stop

    def _source_bytes(self, piece: Encoded, start: int, stop: int) -> int:
        whole = start == 0 and stop == len(piece.tokens)
        return piece.source_bytes if whole else self._tokenizer.num_bytes(np.asarray(piece.tokens[start:stop]))

    def _words_before(self, piece: Encoded, stop: int) -> int:
        """Words that begin in the first `stop` tokens of a piece."""
        if stop in (0, len(piece.tokens)):
            return piece.words if stop else 0
        ends = piece.document_ends.tolist()
        return count_words_of_tokens(piece.tokens[:stop], document_ends=ends, tokenizer=self._tokenizer)

    def _new_shard(self) -> ShardWriter:
        number = self._first_number + len(self._shards.get(self._split, []))
        return ShardWriter(
            self._folder, split=self._split, number=number, dtype=self._dtype, chunk_tokens=self._chunk_tokens
        )

    def _finish_shard(self, *, position: Position, skip_tokens: int) -> None:
        assert self._shard is not None
        record: ShardRecord = self._shard.finish()
        self._journal.shard_finished(self._split, record, position=position, skip_tokens=skip_tokens)
        self._shards.setdefault(self._split, []).append(record)
        self._shard = None
