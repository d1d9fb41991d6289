"""Damaged and malicious files for one process to read: a seeded stream of them, and what reading each came to.

`python -m tests.data_pipeline.hostile KIND FOLDER SEED COUNT` prints one JSON object. A process of its own, because
the libraries that read tokenizers are no Python: whatever they do, pytest lives to tell.
"""

import contextlib
import json
import os
import random
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NASTY: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64, 10**30, 1.5,
    -0.0, float("nan"), float("inf"), 1e308, "", "x", "bytes", "uint8", "uint32", "\0", "\ud800", "\n", "a" * 5000,
    "train/x.tar", [], [None], [[]], {}, {"": None}, {"x": {"x": []}},
]  # fmt: skip
OUTSIDE = ["../outside", "/etc/passwd", "train/../../outside"]
MOST_MEMORY = 3 << 30
UNWATCHED = 10
DEEP = "[" * 60_000
WRITING = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
RUNNING = ("os.exec", "os.posix_spawn", "os.system", "os.fork", "os.forkpty", "subprocess.Popen", "exec", "compile")
TEXTS = [
    b"",
    b"  two  spaces\n",
    "caf\u00e9 \U0001f600 \u2581".encode(),
    b"\xff\0\xfe",
    b"<|endoftext|> def f(x):\n" * 20,
]


class AuditWatch:
    """What of Python's audit events is noticed while it is on."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._is_on = False
        sys.addaudithook(self._hook)

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False

    def notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Put what should not happen into `seen`."""
        raise NotImplementedError

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._is_on:
            self.notice(event, arguments)


class Watch(AuditWatch):
    """What Python is seen to open, to change and to run while a file is being read."""

    def __init__(self, folder: Path) -> None:
        self._inside = os.path.realpath(folder)
        super().__init__()

    def notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        is_path = bool(arguments) and isinstance(arguments[0], str | bytes | os.PathLike)
        if event in RUNNING:
            self.seen.append(f"{event} {arguments!r}"[:200])
        elif event in (*WRITING, "open") and is_path:
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith(self._inside + os.sep) and path != self._inside:
                self.seen.append(f"{event} {path}")


def mutated_bytes(draw: random.Random, content: bytes) -> bytes:
    """A few bytes changed, put in, taken out, doubled, or the end cut off."""
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        place = draw.randrange(len(data) + 1)
        kind = draw.randrange(6)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[place:place] = draw.randbytes(draw.choice([1, 2, 8]))
        elif kind == 2:
            del data[place : place + draw.choice([1, 2, 8, 100])]
        elif kind == 3:
            data[place : place + 4] = draw.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x80\x80\x80\x80"])
        elif kind == 4:
            data[place:place] = data[place : place + draw.choice([2, 50])]
        elif draw.random() < 0.2:
            del data[place:]
    return bytes(data)


def mutated_json(draw: random.Random, content: bytes, nasty: list[Any]) -> bytes:
    """A part of the structure replaced, left out, doubled, put elsewhere, or buried too deep; or only bytes changed."""
    if draw.random() < 0.2:
        return mutated_bytes(draw, content)
    tree = json.loads(content)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        holder, key = draw.choice(places := list(_places(tree)))
        kind = draw.randrange(8)
        if kind == 0 and isinstance(holder, dict):
            holder.pop(key, None)
        elif kind == 1 and isinstance(holder, dict):
            holder[draw.choice(["x", "__class__", "", "name"])] = draw.choice(nasty)
        elif kind == 2:
            other, place = draw.choice(places)
            with contextlib.suppress(KeyError, IndexError):
                holder[key] = json.loads(json.dumps(other[place]))
        elif kind == 3:
            holder[key] = "DEEP"
        elif kind == 4 and isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[key] = draw.choice(nasty)
    return json.dumps(tree).replace('"DEEP"', DEEP).encode()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (holder, key) of a tree; of long lists and vocabularies a few."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    for key in keys[:12] + keys[-12:] if len(keys) > 24 else keys:
        yield tree, key
        yield from _places(tree[key])


def read_dataset(folder: Path) -> None:
    """All that is done with a stranger's dataset before and while a model learns from it."""
    from data_pipeline.check.inspection import inspect
    from data_pipeline.check.run import check
    from data_pipeline.check.shards import ShardCheck
    from data_pipeline.check.verify import verify
    from data_pipeline.config import SourceConfig
    from data_pipeline.errors import DataError
    from data_pipeline.read.split import open_split
    from data_pipeline.shard_index import load_index
    from tests.data_pipeline.making import Silent

    problems: list[str] = []
    problems += check([SourceConfig(path=str(folder))], sequence_lengths=[64], vocab_size=2**40)
    names = list(load_index(folder).splits)
    problems += verify(folder, progress=Silent())
    for work in (lambda: inspect(folder), lambda: ShardCheck([folder]).look()):
        with contextlib.suppress(DataError):
            work()
    for name in names:
        with contextlib.suppress(DataError):
            split = open_split(folder, name)
            if split.num_tokens >= 65:
                split.read_rows([0, split.num_tokens - 65], length=65)
                split.document_starts(0, 64)
    if problems:
        raise DataError(problems)


def read_tokenizer(kind: str, model: bytes) -> None:
    """All that is done with a stranger's tokenizer."""
    from data_pipeline.errors import DataError
    from data_pipeline.prepare.lossless import encoded_text
    from data_pipeline.tokenize.tokenizer import tokenizer_from

    with contextlib.suppress(DataError):
        made = tokenizer_from(kind, model, where="stranger", allow_lossy=True)
        for text in TEXTS[1:]:
            encoded_text(made, text, [])
    made = tokenizer_from(kind, model, where="stranger")
    for text in TEXTS:
        made.decode(made.encode(text))
        made.num_bytes(made.encode(text))


def attempts(kind: str, folder: Path, draw: random.Random) -> Iterator[Callable[[], None]]:
    """What to do with each of an endless stream of files."""
    if kind == "index":
        path = folder / "d" / "dataset.json"
        whole = (folder / "dataset.json").read_bytes()
        while True:
            path.write_bytes(mutated_json(draw, whole, NASTY + OUTSIDE))
            yield lambda: read_dataset(folder / "d")
    name = {"huggingface": "tokenizer.json", "sentencepiece": "tokenizer.model"}[kind]
    model = (folder / name).read_bytes()
    while True:
        changed = mutated_json(draw, model, NASTY + OUTSIDE) if kind == "huggingface" else mutated_bytes(draw, model)
        yield lambda changed=changed: read_tokenizer(kind, changed)


def main(kind: str, folder: Path, seed: int, count: int) -> dict[str, Any]:
    """How many files were refused, and everything that should not have happened."""
    from data_pipeline.errors import DataError
    from data_pipeline.read.shard_cache import FOLDER_VARIABLE

    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    os.environ[FOLDER_VARIABLE] = str(folder / "cache")
    watch, refused, wrong = Watch(folder), 0, []
    for unwatched in range(UNWATCHED):  # what they import may be opened and compiled
        with contextlib.suppress(Exception):
            next(attempts(kind, folder, random.Random(unwatched)))()
    stream = attempts(kind, folder, random.Random(seed))
    for number in range(count):
        attempt = next(stream)
        print(f"{kind} {number}", file=sys.stderr, flush=True)
        try:
            with watch.on():
                attempt()
        except DataError as error:
            refused += 1
            wrong += [f"{number}: several lines: {line!r}" for line in error.problems if "\n" in line]
        except BaseException:
            wrong.append(f"{number}: {traceback.format_exc()}")
    return {"count": count, "refused": refused, "wrong": wrong, "seen": watch.seen}


if __name__ == "__main__":
    json.dump(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])), sys.stdout)
