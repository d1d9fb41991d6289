"""The data pipeline measured beside its neighbours on the same tokens, in one run: reading, seeking, preparing, memory.

    python -m tests.benchmarks.bench_data [work folder]

mosaicml-streaming is measured where it can be imported: it asks for transformers below 5 and a torchvision built for
the same torch, which the project's pins do not allow, so it needs an environment of its own. The corpus is
enwiki2014-plain-100M from HIERLM_TEST_DATA where it is there, else random words of the same size. Exit code 1 where a
claim is missed.
"""

import lzma
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.config import SourceConfig
from data_pipeline.prepare.dataset import prepare
from data_pipeline.prepare.request import Request
from data_pipeline.prepare.sources import find_files
from data_pipeline.read.loader import TrainRows
from data_pipeline.read.split import open_split
from tests.benchmarks.ratio import Claim
from tests.conftest import CORPORA
from tests.data_pipeline.making import Silent

SEQUENCE_LENGTH, BATCH = 1024, 16
NUM_ROWS = 20_000
SLOWEST_SEEK_MILLISECONDS = 50.0
Batch = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="bench-data-"))
    folder.mkdir(parents=True, exist_ok=True)
    text = corpus(folder)
    claims = []
    for part in (reading, preparing, memory):
        for claim in part(folder, text):
            print(claim.line(), flush=True)
            claims.append(claim)
    if len(sys.argv) == 1:
        shutil.rmtree(folder)
    sys.exit(int(not all(claim.holds for claim in claims)))


def corpus(folder: Path) -> Path:
    """100 MB of plain text."""
    path = folder / "text.txt"
    packed = CORPORA / "enwiki2014-plain-100M" / "enwiki2014_plain_100000000.xz"
    if not path.exists() and packed.exists():
        with lzma.open(packed) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
    elif not path.exists():
        words = np.array([f"word{number} " for number in range(20_000)])
        path.write_text("".join(np.random.default_rng(0).choice(words, 12_000_000))[:100_000_000])
    return path


def made(folder: Path, source: Path, *, clock: Callable[[], float] = time.perf_counter, **options: object) -> float:
    """Seconds by `clock` to prepare `source` into `folder`, anew."""
    shutil.rmtree(folder, ignore_errors=True)
    request = Request(files=tuple(find_files([str(source)])), given=("text",), output=folder, **options)  # type: ignore[arg-type]
    began = clock()
    prepare(request, progress=Silent())
    return clock() - began


# Reading rows


def reading(folder: Path, text: Path) -> Iterator[Claim]:
    """Rows of 1024 tokens per second, ours shuffled, and the time to the first batch at any position."""
    made(folder / "bytes", text)
    path = str(folder / "bytes")
    rows = TrainRows([SourceConfig(path=path)], seed=1)
    ours = best(lambda: rows_per_second(our_batches(rows)))
    plain = best(lambda: rows_per_second(batches_of(webdataset_rows(folder / "bytes"))))
    yield Claim(f"rows of {SEQUENCE_LENGTH} tokens, over plain webdataset ({ours:,.0f} a second)", ours / plain, 5.0)
    try:
        import streaming  # noqa: F401
    except Exception as error:  # its own imports fail in several ways
        print(f"mosaicml-streaming is not measured: {error}")
    else:
        write_streaming(folder / "streaming", path)
        theirs = best(lambda: rows_per_second(batches_of(streaming_rows(folder / "streaming"))))
        yield Claim("the same, over mosaicml-streaming", ours / theirs, 2.0)
    slowest = 1000 * max(seek_seconds(path, share) for share in (0.01, 0.5, 0.99))
    share = SLOWEST_SEEK_MILLISECONDS / slowest
    yield Claim(f"{SLOWEST_SEEK_MILLISECONDS:.0f} ms, over the slowest seek of three ({slowest:.1f} ms)", share, 1.0)


def best(measured: Callable[[], float]) -> float:
    """Of three: other work on the machine only makes it slower."""
    return max(measured() for _ in range(3))


def rows_per_second(batches: Iterator[Batch]) -> float:
    """By processor time of this process, so that other work on the machine matters little; all read on one thread."""
    next(batches)  # opening is not reading
    began = time.process_time()
    count = sum(len(tokens) for tokens, _ in islice(batches, NUM_ROWS // BATCH))
    return count / (time.process_time() - began)


def our_batches(rows: TrainRows) -> Iterator[Batch]:
    for first in range(0, 2 * NUM_ROWS, BATCH):
        batch = rows.read(sequence_length=SEQUENCE_LENGTH, data_pass=0, first_sample=first, rows=range(BATCH))
        yield batch.tokens, batch.targets


def batches_of(rows: Iterator[NDArray[np.int64]]) -> Iterator[Batch]:
    """What a training step needs of rows [T + 1]: inputs and targets [BATCH, T]."""
    while taken := list(islice(rows, BATCH)):
        whole = torch.from_numpy(np.stack(taken))
        yield whole[:, :-1].contiguous(), whole[:, 1:].contiguous()


def webdataset_rows(folder: Path) -> Iterator[NDArray[np.int64]]:
    """The same tars decoded by plain webdataset, cut into rows (those across two chunks are left out)."""
    import webdataset

    urls = sorted(str(path) for path in folder.glob("train/*.tar"))
    for sample in webdataset.WebDataset(urls, shardshuffle=False).decode():
        tokens = sample["tokens.npy"]
        for start in range(0, len(tokens) - SEQUENCE_LENGTH, SEQUENCE_LENGTH):
            yield tokens[start : start + SEQUENCE_LENGTH + 1].astype(np.int64)


def write_streaming(folder: Path, dataset: str) -> None:
    from streaming import MDSWriter

    shutil.rmtree(folder, ignore_errors=True)
    split = open_split(dataset, "train")
    with MDSWriter(out=str(folder), columns={"tokens": f"ndarray:uint8:{SEQUENCE_LENGTH + 1}"}) as writer:
        for row in range(2 * NUM_ROWS):
            start = row * SEQUENCE_LENGTH
            writer.write({"tokens": split.read(start, start + SEQUENCE_LENGTH + 1).astype(np.uint8)})


def streaming_rows(folder: Path) -> Iterator[NDArray[np.int64]]:
    """mosaicml-streaming, shuffled, on the same tokens cut to rows beforehand."""
    from streaming import StreamingDataset

    for sample in StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH):
        yield sample["tokens"].astype(np.int64)


def seek_seconds(path: str, share: float) -> float:
    """From nothing open to the first batch at a share of the epoch, as after a resume."""
    began = time.perf_counter()
    rows = TrainRows([SourceConfig(path=path)], seed=1)
    first = int(share * rows.splits[0].num_tokens / SEQUENCE_LENGTH)
    rows.read(sequence_length=SEQUENCE_LENGTH, data_pass=0, first_sample=first, rows=range(BATCH))
    return time.perf_counter() - began


# Preparing


def preparing(folder: Path, text: Path) -> Iterator[Claim]:
    """Sentencepiece preparation by one and two workers, beside sentencepiece alone on the same text."""
    made(folder / "trained", text, tokenizer="sentencepiece")
    model, megabytes = folder / "trained" / "tokenizer.model", text.stat().st_size / 1e6
    options = {"tokenizer": "sentencepiece", "tokenizer_model": model, "workers": 1}
    alone = made(folder / "alone", text, clock=time.process_time, **options)  # type: ignore[arg-type]
    raw = raw_seconds(model.read_bytes(), text)
    rate = f"sentencepiece alone ({megabytes / raw:.1f} MB a processor second)"
    yield Claim(f"a core's preparing, over {rate}", raw / alone, 0.8)
    verb = ("--tokenizer", "sentencepiece", "--tokenizer-model", str(model), "--workers")
    one, two = (min(run_verb(folder, text, *verb, str(n)).seconds for _ in range(2)) for n in (1, 2))
    yield Claim(f"preparing by two workers, over one ({megabytes / one:.1f} MB a second)", one / two, 1.7)
    halves = [raw_together(model.read_bytes(), text, num_processes=n) for n in (1, 2)]
    yield Claim("  sentencepiece alone in two processes, over one: what the cores allow", halves[0] / halves[1], None)


def first_bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def raw_seconds(
    model: bytes, path: Path, share: slice = slice(None), clock: Callable[[], float] = time.process_time
) -> float:
    """Seconds of sentencepiece's own encoding, line by line, and nothing else."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    lines = path.read_bytes().decode(errors="ignore").splitlines(keepends=True)[share]
    began = clock()
    for line in lines:
        processor.encode(line)
    return clock() - began


def raw_together(model: bytes, path: Path, *, num_processes: int) -> float:
    """Wall seconds of the slowest of several processes, each of which encodes its share of the lines."""
    shares = [slice(first, None, num_processes) for first in range(num_processes)]
    with get_context("spawn").Pool(num_processes) as pool:
        return max(pool.starmap(raw_seconds, [(model, path, share, time.perf_counter) for share in shares]))


# Memory


def memory(folder: Path, text: Path) -> Iterator[Claim]:
    """Peak memory of preparing 10 MB and 100 MB, each in its own process."""
    small = folder / "small.txt"
    small.write_bytes(first_bytes(text, 10_000_000))
    least, most = (run_verb(folder, source).peak_mib for source in (small, text))
    yield Claim(f"peak memory of preparing 10 MB, over that of 100 MB ({most:.0f} MiB)", least / most, 0.9)


class Cost(NamedTuple):
    """Of one run of the verb; processor seconds are (this process, its workers)."""

    seconds: float
    peak_mib: float
    processor_seconds: tuple[float, float]


MEASURED = """
import os, re, sys
from launcher.cli import run
if __name__ == "__main__":
    code = run(sys.argv[1:])
    peak = re.search("VmHWM:[^0-9]*([0-9]+)", open("/proc/self/status").read())
    used = os.times()
    print(int(peak[1]) / 1024, used.user + used.system, used.children_user + used.children_system, file=sys.stderr)
    sys.exit(code)
"""


def run_verb(folder: Path, source: Path, *options: str) -> Cost:
    """`hierlm data prepare` in a process of its own."""
    output, script = folder / "verb", folder / "measured.py"
    shutil.rmtree(output, ignore_errors=True)
    script.write_text(MEASURED)
    arguments = ["data", "prepare", "--input", str(source), "--output", str(output), *options]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=True)
    peak, own, children = map(float, done.stderr.splitlines()[-1].split())
    return Cost(time.perf_counter() - began, peak, (own, children))


if __name__ == "__main__":
    main()
