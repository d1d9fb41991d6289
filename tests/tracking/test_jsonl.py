"""metrics.jsonl: full precision, whole lines whatever happens, and a clean cut on resume."""

import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hierlm.tracking.jsonl import MetricsFile, read_new_records, read_records


def test_floats_come_back_bit_for_bit(tmp_path: Path) -> None:
    values = [random.Random(3).uniform(-1, 1) * 10.0**e for e in range(-30, 30)]
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step, value in enumerate(values):
        file.write({"kind": "train", "step": step, "loss": value})
    assert [record["loss"] for record in read_records(file.path)] == values


def test_what_is_not_finite_is_null_and_every_line_is_standard_json(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write({"step": 1, "loss": math.nan, "grad_norm": math.inf})
    (record,) = read_records(file.path)
    assert record["loss"] is None and record["grad_norm"] is None
    assert "NaN" not in file.path.read_text() and "Infinity" not in file.path.read_text()


def test_a_record_carries_its_time_unless_it_has_one(tmp_path: Path) -> None:
    file, before = MetricsFile(tmp_path / "metrics.jsonl"), time.time()
    file.write({"step": 1})
    file.write({"step": 2, "time": 7.0})
    first, second = read_records(file.path)
    assert before <= first["time"] <= time.time()
    assert second["time"] == 7.0


def test_a_torn_last_line_is_not_read_and_goes_when_the_file_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    assert read_records(path) == [{"step": 1}]
    MetricsFile(path).write({"step": 2, "time": 0})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2, "time": 0}\n'


def test_a_block_of_zeros_after_a_power_cut_hides_no_record(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + bytes(100) + b'\n{"step": 2}\n')
    assert [record["step"] for record in read_records(path)] == [1, 2]


def test_truncate_after_removes_exactly_the_later_steps(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    for step in (10, 20, 30, 40):
        file.write({"kind": "train", "step": step})
        file.write({"kind": "eval", "step": step, "split": "valid"})
    assert file.truncate_after(step=25) == 4
    assert [record["step"] for record in read_records(path)] == [10, 10, 20, 20]
    file.write({"kind": "train", "step": 30})
    assert [record["step"] for record in read_records(path)] == [10, 10, 20, 20, 30]
    assert file.truncate_after(step=100) == 0


def test_a_missing_file_has_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "none.jsonl") == []
    assert read_new_records(tmp_path / "none.jsonl", offset=0) == ([], 0)


def test_following_reads_every_record_once_and_waits_for_whole_lines(tmp_path: Path) -> None:
    path, seen, offset = tmp_path / "metrics.jsonl", [], 0
    whole = b"".join(b'{"step": %d}\n' % step for step in range(200))
    for end in range(0, len(whole) + 1, 7):
        path.write_bytes(whole[:end])
        records, offset = read_new_records(path, offset=offset)
        seen += [record["step"] for record in records]
    path.write_bytes(whole)
    seen += [record["step"] for record in read_new_records(path, offset=offset)[0]]
    assert seen == list(range(200))


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write({"step": 1})
    before = file.path.read_bytes()
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real_write(descriptor, data[:5]))
    with pytest.raises(OSError, match="disk full"):
        file.write({"step": 2})
    assert file.path.read_bytes() == before


def test_a_killed_writer_leaves_whole_lines_and_at_most_one_torn(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    code = (
        "import sys; from pathlib import Path; from itertools import count; from hierlm.tracking.jsonl import *\n"
        "file = MetricsFile(Path(sys.argv[1]))\n"
        "for step in count(): file.write({'step': step, 'loss': 1 / 3, 'text': 'x' * 300})"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
    while not path.exists() or path.stat().st_size < 100_000:
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    steps = [record["step"] for record in read_records(path)]
    assert steps == list(range(len(steps)))
    assert path.read_bytes().count(b"\n") == len(steps), "a broken line before the last"
