"""Text or images to a prepared dataset: measure, train the tokenizer if asked, encode, write; resumable at every shard.

Everything that decides the output is in the request's signature. A journal in the output folder carries it, so that a
killed preparation continues only as what it was.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from data_pipeline.errors import DataError
from data_pipeline.prepare import journal as journals
from data_pipeline.prepare.corpus import Reading
from data_pipeline.prepare.dataset_writer import DatasetWriter
from data_pipeline.prepare.encoding import encode_pieces
from data_pipeline.prepare.lossless import Losses
from data_pipeline.prepare.measure import SAMPLE_LINES, Measured, measure
from data_pipeline.prepare.output_folder import (
    differences,
    locked,
    part_locked,
    remove_unnamed_shards,
    require_unused,
    without_places,
)
from data_pipeline.prepare.parts import SHARD_NUMBERS_PER_PART, Span, part_spans, require_whole, text_between
from data_pipeline.prepare.pieces import Group, pieces
from data_pipeline.prepare.progress import Progress
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.request import Request, model_bytes, refuse_meaningless_options, signature_of, stamp_of
from data_pipeline.prepare.selection import FILE_NAME as LEFT_OUT_FILE
from data_pipeline.prepare.selection import read_left_out, select, write_left_out
from data_pipeline.prepare.shard_writer import write_atomically
from data_pipeline.prepare.splits import Part, group, parts
from data_pipeline.prepare.tokenizer_training import train_sentencepiece
from data_pipeline.shard_index import FILE_NAME as INDEX_FILE
from data_pipeline.shard_index import DatasetIndex, SplitRecord, TokenizerRecord, build_index, load_index
from data_pipeline.tokenize.tokenizer import MODEL_FILES, Tokenizer, dtype_for, tokenizer_from


class Prepared(NamedTuple):
    """The finished dataset, None while other parts are still to be made; `reused` when it was there already."""

    dataset: DatasetIndex | None
    reused: bool


def prepare(request: Request, *, progress: Progress) -> Prepared:
    """Make the dataset, or find it made. DataError when the input, the options or the output folder are wrong.

    With `plan`, only what the parts share is settled; with `part`, only that one is written. A call with neither
    does whatever is left and writes dataset.json.
    """
    if request.part is not None and not 0 <= request.part < request.parts:
        raise DataError(f"--part {request.part}: there are parts 0 to {request.parts - 1}; --parts says how many")
    refuse_meaningless_options(request)
    met = Report()
    met.take_over(request.met)
    corpus = parts(request.files, request.splits, report=met)
    work = _Work(request, corpus, met, signature_of(request, corpus), progress, journals.Journal(request.output))
    with locked(request.output, shared=request.part is not None):
        if (request.output / INDEX_FILE).exists():
            return Prepared(work.finished_dataset(), reused=True)
        return Prepared(work.continue_or_begin(), reused=False)


@dataclass(frozen=True)
class _Work:
    """One call of `prepare`, holding the output folder."""

    request: Request
    corpus: tuple[Part, ...]
    met: Report  # where the inputs were looked for
    signature: dict[str, Any]
    progress: Progress
    journal: journals.Journal

    def finished_dataset(self) -> DatasetIndex:
        """The dataset that is there, if it is the one asked for."""
        output = self.request.output
        index = load_index(output)
        different = differences(without_places(index.made), without_places(self.signature))
        have_moved = bool(differences(index.made, self.signature))
        if not different and (have_moved or self._inputs_are_newer()) and not self._inputs_are_same(index):
            different = ["inputs"]
        if different:
            raise DataError(
                f"{output}: holds a dataset that was made otherwise (different: {', '.join(different)}); "
                "choose another --output or remove the folder"
            )
        self._remove_working_files()
        return index

    def continue_or_begin(self) -> DatasetIndex | None:
        """Go on where the journals end, or start them."""
        request, stamp = self.request, stamp_of(self.corpus)
        header = self.journal.header() if request.resume or request.part is not None else None
        if header:
            self._require_same(header, stamp=stamp)
        elif request.part is not None:
            raise DataError(f"{request.output}: part {request.part} of nothing planned; run with --plan first")
        else:
            require_unused(request.output, resume=request.resume)
            header = self._header(stamp)
            self.journal.begin(header)
        return None if request.plan else self._write(header)

    def _inputs_are_newer(self) -> bool:
        written = (self.request.output / INDEX_FILE).stat().st_mtime
        return any(file.modified_seconds > written for part in self.corpus for file in part.files)

    def _inputs_are_same(self, index: DatasetIndex) -> bool:
        report = Report()
        reading = self._select(report)
        self.progress.begin("comparing with the inputs")
        now = [read.sha256 for read in self._measure(reading, report)]
        return now == [read["sha256"] for read in index.made["read"]]

    def _require_same(self, header: dict[str, Any], *, stamp: str) -> None:
        different = differences(header["signature"], self.signature)
        if not different and header["stamp"] != stamp:
            different = ["inputs, changed since"]
        if different:
            raise DataError(
                f"{self.request.output}: --resume continues only the same preparation (different: "
                f"{', '.join(different)}); give the same options or empty the folder"
            )

    def _select(self, report: Report) -> Reading:
        request = self.request
        left_out = select(
            [part.files for part in self.corpus],
            documents=request.documents,
            policy=request.policy,
            filters=request.filters,
            report=report,
            progress=self.progress,
        )
        return Reading(request.documents, request.policy, left_out)

    def _measure(self, reading: Reading, report: Report, *, sample_lines: int = 0) -> list[Measured]:
        return [
            measure(
                part.files,
                reading=reading,
                group=number,
                report=report,
                progress=self.progress,
                sample_lines=0 if part.only_split else sample_lines,
            )
            for number, part in enumerate(self.corpus)
        ]

    def _header(self, stamp: str) -> dict[str, Any]:
        """Read everything once, settle the splits and the tokenizer."""
        request, report = self.request, self.met
        trains = request.tokenizer == "sentencepiece" and request.tokenizer_model is None
        reading = self._select(report)
        self.progress.begin("reading")
        measured = self._measure(reading, report, sample_lines=SAMPLE_LINES if trains else 0)
        groups = self._groups([read.text_bytes for read in measured])
        model = self._train(measured[0], train_end=groups[0].ends[0]) if trains else model_bytes(request)
        if model is not None:
            self._tokenizer_of(model, where=str(request.tokenizer_model or "the sentencepiece model trained here"))
            write_atomically(request.output / MODEL_FILES[request.tokenizer], model)
        write_atomically(request.output / LEFT_OUT_FILE, write_left_out(reading.left_out))
        return {
            "signature": self.signature,
            "stamp": stamp,
            "read": [read.record for read in measured],
            "met": report.record,
            "file_bytes": [read.file_bytes for read in measured],
        }

    def _groups(self, text_bytes: Sequence[int]) -> tuple[Group, ...]:
        unit_bytes = self.request.documents.unit_bytes
        return tuple(
            group(part, text_bytes=size, unit_bytes=unit_bytes)
            for part, size in zip(self.corpus, text_bytes, strict=True)
        )

    def _train(self, measured: Measured, *, train_end: int) -> bytes:
        """A tokenizer that has seen nothing of the other splits."""
        lines = [line.text for line in measured.sample if line.offset + len(line.text) <= train_end]
        size, kind = sum(map(len, lines)), self.request.model_type
        self.progress.begin(f"training a {kind} tokenizer on {len(lines)} lines", total_bytes=size)
        model = train_sentencepiece(lines, vocab_size=self.request.vocab_size, model_type=kind)
        self.progress.advance(source_bytes=size)
        return model

    def _write(self, header: dict[str, Any]) -> DatasetIndex | None:
        """The part asked for, or all that are not finished and then the index."""
        groups = self._groups([read["text_bytes"] for read in header["read"]])
        spans = part_spans(groups, file_bytes=header["file_bytes"], num_parts=self.request.parts)
        tokenizer = self._tokenizer()
        wanted = range(self.request.parts) if self.request.part is None else [self.request.part]
        for number in wanted:
            self._write_part(number, spans[number], groups, tokenizer)
        return self._write_index(header, groups, tokenizer) if self.request.part is None else None

    def _write_part(self, number: int, span: Span, groups: tuple[Group, ...], tokenizer: Tokenizer) -> None:
        journal = self.journal.part(number)
        with part_locked(journal.path):
            journal.drop_cut_off_line()
            state = journal.read()
            if not state.finished:
                remove_unnamed_shards(self.request.output, state, part=number)
                self._encode(number, span, groups, tokenizer, state)

    def _write_index(self, header: dict[str, Any], groups: tuple[Group, ...], tokenizer: Tokenizer) -> DatasetIndex:
        request = self.request
        states = [self.journal.part(number).read() for number in range(request.parts)]
        names = dict.fromkeys(name for part in groups for name in part.splits)
        splits = {
            name: SplitRecord.of(tuple(shard for state in states for shard in state.shards.get(name, [])))
            for name in names
        }
        index = build_index(
            tokenizer=_tokenizer_record(tokenizer),
            dtype=dtype_for(tokenizer.vocab_size),
            chunk_tokens=request.chunk_tokens,
            splits=splits,
            image_shape=request.documents.image_shape,
            lossy=request.allow_lossy,
            made=self.signature | {"read": header["read"], "met": header["met"]},
        )
        write_atomically(request.output / INDEX_FILE, index.as_json().encode())
        self._remove_working_files()
        return index

    def _remove_working_files(self) -> None:
        self.journal.remove()
        (self.request.output / LEFT_OUT_FILE).unlink(missing_ok=True)

    def _tokenizer(self) -> Tokenizer:
        kind = self.request.tokenizer
        path = self.request.output / MODEL_FILES.get(kind, "")
        return self._tokenizer_of(path.read_bytes() if kind in MODEL_FILES else b"", where=str(path))

    def _tokenizer_of(self, model: bytes, *, where: str) -> Tokenizer:
        return tokenizer_from(self.request.tokenizer, model, where=where, allow_lossy=self.request.allow_lossy)

    def _encode(
        self, number: int, span: Span, groups: tuple[Group, ...], tokenizer: Tokenizer, state: journals.PartState
    ) -> None:
        request = self.request
        writer = DatasetWriter(
            request.output,
            tokenizer=tokenizer,
            dtype=dtype_for(tokenizer.vocab_size),
            shard_tokens=request.shard_tokens,
            chunk_tokens=request.chunk_tokens,
            journal=self.journal.part(number),
            state=state,
            first_number=number * SHARD_NUMBERS_PER_PART,
        )
        position = state.position or span.start
        name = "encoding" if request.parts == 1 else f"encoding part {number} of {request.parts}"
        self.progress.begin(name, total_bytes=span.text_bytes)
        self.progress.advance(source_bytes=text_between(span.start, position, groups))
        losses = Losses(groups, allowed=request.allow_lossy, say=self.progress.say)
        left_out = read_left_out((request.output / LEFT_OUT_FILE).read_bytes())
        stream = pieces(
            groups,
            reading=Reading(request.documents, request.policy, left_out),
            start=position,
            end=span.end,
            cut_anywhere=tokenizer.kind == "bytes",
        )
        try:
            for piece in encode_pieces(stream, tokenizer=tokenizer, workers=self._num_workers()):
                losses.note(piece.changed)
                tokens = writer.add(piece)
                documents, read = len(piece.document_ends), piece.after.total - piece.start.total
                self.progress.advance(source_bytes=read, tokens=tokens, documents=documents)
                position = piece.after
            require_whole(span, groups, position=position, path=request.files[0].path)
            writer.finish(position=position)
        except BaseException:
            writer.abandon()
            raise

    def _num_workers(self) -> int:
        """Bytes need no encoding, so one process is fastest; else one per usable core."""
        if self.request.workers is not None:
            return self.request.workers
        return 1 if self.request.tokenizer == "bytes" else len(os.sched_getaffinity(0))


def _tokenizer_record(tokenizer: Tokenizer) -> TokenizerRecord:
    return TokenizerRecord(
        kind=tokenizer.kind,
        fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        file=MODEL_FILES.get(tokenizer.kind),
    )
