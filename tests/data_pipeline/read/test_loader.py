"""Batches: the next token is the target, ranks share a batch without loss, prefetching changes nothing."""

import threading
import time

import numpy as np
import pytest
import torch

from data_pipeline.config import SourceConfig
from data_pipeline.errors import DataError
from data_pipeline.read.loader import (
    IGNORED_TARGET,
    Batch,
    EvaluationRows,
    Request,
    TrainRows,
    evaluation_rows,
    open_split,
)
from data_pipeline.read.prefetch import Prefetcher
from tests.data_pipeline.making import prepared
from tests.tracking.servers import until

TEXT = np.random.default_rng(1).integers(0, 256, 5_003, dtype=np.uint8).tobytes()
T = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader") / "d"
    prepared(folder, TEXT, splits="valid=0.2", shard_tokens=701, documents="blank-line")
    return folder


@pytest.fixture(scope="module")
def rows(folder):
    return TrainRows([SourceConfig(path=str(folder))], seed=5)


def read(rows, first_sample=0, count=8, **options):
    return rows.read(sequence_length=T, data_pass=0, first_sample=first_sample, rows=range(count), **options)


def test_targets_are_the_next_tokens(rows):
    batch = read(rows)
    assert batch.tokens.dtype == batch.targets.dtype == torch.int64 and batch.tokens.shape == (8, T)
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])


def test_one_epoch_of_batches_holds_every_token_as_target_once(folder, rows):
    num_rows = (rows.splits[0].num_tokens - 1) // T
    whole = read(rows, count=num_rows)
    stream = rows.splits[0].read(1, num_rows * T + 1)
    by_stream = sorted(stream.reshape(num_rows, T).tolist())
    assert sorted(whole.targets.tolist()) == by_stream


@pytest.mark.parametrize("data_parallel", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("lanes", [None, 24])
def test_ranks_share_the_global_batch(folder, rows, data_parallel, lanes):
    whole = read(rows, first_sample=48, count=24, lanes=lanes)
    share = 24 // data_parallel
    parts = [
        TrainRows([SourceConfig(path=str(folder))], seed=5).read(
            sequence_length=T,
            data_pass=0,
            first_sample=48,
            rows=range(rank * share, (rank + 1) * share),
            lanes=lanes,
        )
        for rank in range(data_parallel)
    ]
    assert torch.equal(torch.cat([part.tokens for part in parts]), whole.tokens)


def test_lanes_continue_where_they_were(rows):
    first, second = (read(rows, first_sample=step * 8, lanes=8) for step in (0, 1))
    assert torch.equal(first.targets[:, -1], second.tokens[:, 0])
    assert first.starts.all() and not second.starts.any()


def test_seed_and_data_pass_change_the_order_and_nothing_else_does(folder, rows):
    again = TrainRows([SourceConfig(path=str(folder))], seed=5)
    other = TrainRows([SourceConfig(path=str(folder))], seed=6)
    assert torch.equal(read(again).tokens, read(rows).tokens)
    assert not torch.equal(read(other).tokens, read(rows).tokens)
    second_pass = rows.read(sequence_length=T, data_pass=1, first_sample=0, rows=range(8))
    assert not torch.equal(second_pass.tokens, read(rows).tokens)


def test_document_starts_mark_first_tokens(tmp_path):
    prepared(tmp_path / "d", b"a\n\nbb\n\nccc\n\n" * 50, documents="blank-line")
    batch = read(TrainRows([SourceConfig(path=str(tmp_path / "d"))], seed=1, document_starts=True), lanes=8)
    newline = ord("\n")
    after_blank_line = (batch.tokens[:, :-1] == newline) & (batch.tokens[:, 1:] != newline)
    assert torch.equal(batch.document_starts[:, 1:], after_blank_line)


def test_sources_are_mixed_by_weight(tmp_path):
    for name, byte in (("a", b"a"), ("b", b"b")):
        prepared(tmp_path / name, byte * 40_000)
    sources = [SourceConfig(path=str(tmp_path / "a"), weight=3), SourceConfig(path=str(tmp_path / "b"), weight=1)]
    batch = TrainRows(sources, seed=1).read(sequence_length=4, data_pass=0, first_sample=0, rows=range(4096))
    assert (batch.tokens == ord("a")).float().mean().item() == 0.75
    lanes = TrainRows(sources, seed=1).read(sequence_length=4, data_pass=0, first_sample=0, rows=range(8), lanes=8)
    assert (lanes.tokens[:, 0] == ord("a")).tolist() == [True] * 6 + [False] * 2 or lanes.tokens[0, 0] == ord("a")


def test_a_sequence_longer_than_the_split_is_refused(rows):
    with pytest.raises(DataError, match="sequence_length 5000 needs 5001 tokens"):
        rows.read(sequence_length=5000, data_pass=0, first_sample=0, rows=range(1))
    with pytest.raises(DataError, match="a row for each of 600 lanes"):
        read(rows, count=600, lanes=600)


@pytest.mark.parametrize("sequence_length", [7, 10, 16, 1000, 5000])
def test_evaluation_counts_every_target_once_for_any_share_of_rows(folder, sequence_length):
    split = open_split(folder, "valid")
    rows = evaluation_rows(split, sequence_length=sequence_length)
    targets = []
    for first in range(0, len(rows), 3):  # the last share may reach past the end
        batch = rows.read(range(first, first + 3))
        assert batch.valid.tolist() == (batch.targets != IGNORED_TARGET).sum(dim=1).tolist()
        targets += [row[:count] for row, count in zip(batch.targets.tolist(), batch.valid.tolist(), strict=True)]
    assert [token for row in targets for token in row] == split.read(1, split.num_tokens).tolist()


def test_a_row_past_the_end_or_before_the_start_is_padding(folder):
    rows = evaluation_rows(open_split(folder, "valid"), sequence_length=16)
    assert rows.read([-1, len(rows), 10**9]).valid.tolist() == [0, 0, 0]


def test_padding_of_a_row_alone_in_its_batch_leaves_its_inputs_tokens(folder):
    rows = evaluation_rows(open_split(folder, "valid"), sequence_length=16)
    assert rows.read([-1]).targets.tolist() == [[IGNORED_TARGET] * 16]
    assert rows.read([-1]).tokens.tolist() == [[0] * 16]


def requests(count):
    return iter([Request(T, 0, 8 * step, range(8)) for step in range(count)])


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_prefetching_keeps_the_order_and_ends(rows, depth):
    with Prefetcher(rows, requests(6), depth) as batches:
        got = [batch.tokens for batch in batches]
    assert len(got) == 6
    assert all(torch.equal(tokens, read(rows, first_sample=8 * step).tokens) for step, tokens in enumerate(got))


@pytest.mark.parametrize("depth", [0, 2])
def test_the_readers_error_arrives_where_the_batch_was_due(rows, depth):
    def fails_at_two(request: Request) -> Batch:
        if request.first_sample == 16:
            raise DataError("shard is gone")
        return rows(request)

    with Prefetcher(fails_at_two, requests(6), depth) as batches:
        next(batches), next(batches)
        for _ in range(2):  # and again: a dead reader is no end of data
            with pytest.raises(DataError, match="shard is gone"):
                next(batches)
            if depth == 0:
                break


def test_waiting_is_measured(rows):
    release = threading.Event()

    def slow(request: Request) -> Batch:
        release.wait(300)
        return rows(request)

    threading.Timer(0.3, release.set).start()
    with Prefetcher(slow, requests(2), 1) as batches:
        assert torch.equal(next(batches).tokens, read(rows).tokens)
        assert batches.wait_seconds >= 0.2


def test_it_reads_ahead_but_no_further_than_asked(rows):
    taken = []

    def noting(request: Request) -> Batch:
        taken.append(request.first_sample)
        return rows(request)

    with Prefetcher(noting, requests(50), 2) as batches:
        next(batches)
        until(lambda: len(taken) >= 3)
        time.sleep(0.3)
        assert len(taken) <= 4
    assert not any(thread.name == "data-prefetch" and thread.is_alive() for thread in threading.enumerate())


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("depth", [0, 2])
def test_batches_come_to_the_device_the_same_with_their_masks_left_here(rows, kind, depth):
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    lanes = iter([Request(T, 0, 8 * step, range(8), 8) for step in range(4)])
    with Prefetcher(rows, lanes, depth, device=torch.device(kind)) as batches:
        for step, batch in enumerate(batches):
            expected = rows(Request(T, 0, 8 * step, range(8), 8))
            assert {batch.tokens.device.type, batch.targets.device.type} == {kind}
            assert torch.equal(batch.tokens.cpu(), expected.tokens)
            assert torch.equal(batch.targets.cpu(), expected.targets)
            assert batch.starts.device.type == "cpu"  # asked for before the step begins: it must not wait for a device


def test_evaluation_rows_mark_first_tokens_and_padding_begins_nothing(tmp_path):
    prepared(tmp_path / "d", b"a\n\nbb\n\nccc\n\n" * 20, documents="blank-line", splits="valid=0.3")
    split = open_split(tmp_path / "d", "valid")
    rows = EvaluationRows(split, sequence_length=7, document_starts=True)
    batch = rows.read([*range(len(rows)), -1])
    found = batch.document_starts[:-1].flatten()[: split.num_tokens - 1]
    assert found.tolist() == split.document_starts(0, split.num_tokens - 1).tolist() and found.sum() > 5
    assert not batch.document_starts[-1].any()
    assert EvaluationRows(split, sequence_length=7).read([0]).document_starts is None
