"""What lies elsewhere is read exactly, through failures; shards are checked on arrival and the cache stays bounded."""

import gzip
import http.server
import threading

import numpy as np
import pytest

from data_pipeline import remote
from data_pipeline.config import SourceConfig
from data_pipeline.errors import DataError
from data_pipeline.read.loader import TrainRows
from data_pipeline.read.shard_cache import ShardCache
from data_pipeline.read.split import open_split
from data_pipeline.remote import RemoteReader, open_remote
from data_pipeline.shard_index import load_index
from tests.data_pipeline.making import prepared, stream_text

TEXT = np.random.default_rng(2).integers(32, 127, 200_000, dtype=np.uint8).tobytes()


class Server:
    """Serves a folder; every `fails_every`-th answer breaks off in the middle or is an error."""

    def __init__(self, folder):
        self.fails_every, self.ranges, self.served = 0, True, []
        outer, self._count = self, 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                outer._answer(self, folder, body=False)

            def do_GET(self):
                outer._answer(self, folder, body=True)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, handler, folder, *, body):
        self._count += 1
        path = folder / handler.path.lstrip("/")
        fails = self.fails_every and self._count % self.fails_every == 0
        if not path.is_file() or (fails and self._count % 2):
            return handler.send_error(503 if path.is_file() else 404)
        content, start = path.read_bytes(), 0
        if self.ranges and "Range" in handler.headers:
            start = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        if body:
            self.served.append(path.name)
            rest = content[start:]
            handler.wfile.write(rest[: len(rest) // 2] if fails else rest)
        return None

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.001)
    folder = tmp_path / "served"
    folder.mkdir()
    running = Server(folder)
    running.folder = folder
    yield running
    running.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HIERLM_DATA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("fails_every", [0, 2, 3])
def test_a_file_is_read_exactly_through_failures(server, fails_every, ranges):
    (server.folder / "text").write_bytes(TEXT)
    server.fails_every, server.ranges = fails_every, ranges
    with open_remote(f"{server.address}/text") as file:
        assert file.read() == TEXT


def test_pauses_grow_and_end(server):
    pauses = []
    (server.folder / "text").write_bytes(TEXT)
    reader = RemoteReader(f"{server.address}/text", sleep=pauses.append)
    server.close()
    with pytest.raises(DataError, match="cannot be read"):
        reader.read(10)
    assert pauses == [remote.FIRST_PAUSE_SECONDS * 2**attempt for attempt in range(remote.TRIES - 1)]


def test_what_is_not_there_is_said_at_once(server):
    with pytest.raises(DataError, match=r"absent: cannot be read .*404"):
        open_remote(f"{server.address}/absent")
    with pytest.raises(DataError, match="nothing:// cannot be read here"):
        open_remote("nothing://bucket/file")


@pytest.mark.parametrize("kind", ["https", "pipe", "fsspec"])
def test_a_remote_text_gives_the_dataset_of_a_local_one(server, tmp_path, kind):
    packed = server.folder / "text.gz"
    packed.write_bytes(gzip.compress(TEXT))
    addresses = {
        "https": f"{server.address}/text.gz",
        "pipe": f"pipe:cat {packed}",
        "fsspec": "memory://bucket/text.gz",
    }
    if kind == "fsspec":
        import fsspec

        fsspec.filesystem("memory").pipe("/bucket/text.gz", packed.read_bytes())
    server.fails_every = 3
    index = prepared(tmp_path / "d", [addresses[kind]], splits="valid=0.1")
    assert index.splits == prepared(tmp_path / "local", TEXT, splits="valid=0.1").splits


def test_a_command_that_fails_is_an_error_not_a_short_text(tmp_path):
    with pytest.raises(DataError, match="exit code 3"):
        prepared(tmp_path / "d", ["pipe:echo half; exit 3"])


def test_a_remote_pattern_is_listed(tmp_path):
    import fsspec

    store = fsspec.filesystem("memory")
    for name in ("b.txt", "a.txt", "c.log"):
        store.pipe(f"/pattern/{name}", name.encode())
    prepared(tmp_path / "d", ["memory://pattern/*.txt"])
    assert stream_text(tmp_path / "d", "train") == b"a.txtb.txt"


def test_a_remote_dataset_gives_the_batches_of_a_local_one(server, cache):
    prepared(
        server.folder / "d", TEXT, splits="valid=0.1", shard_tokens=20_000, tokenizer="sentencepiece", vocab_size=300
    )
    server.fails_every = 3
    local, far = (
        TrainRows([SourceConfig(path=path)], seed=1) for path in (str(server.folder / "d"), f"{server.address}/d")
    )
    for first in (0, 64):
        options = {"sequence_length": 32, "data_pass": 0, "first_sample": first, "rows": range(64)}
        assert (local.read(**options).tokens == far.read(**options).tokens).all()
    assert stream_text(f"{server.address}/d", "valid") == stream_text(server.folder / "d", "valid")


def test_each_shard_is_fetched_once_and_the_next_one_ahead(server, cache):
    prepared(server.folder / "d", TEXT, shard_tokens=50_000)
    for _ in range(2):
        split = open_split(f"{server.address}/d", "train")
        assert bytes(split.read(0, len(TEXT)).astype(np.uint8)) == TEXT
    assert sorted(name for name in server.served if name.endswith(".tar")) == [f"shard-{n:06d}.tar" for n in range(4)]


def test_the_cache_stays_within_its_bound_and_the_last_used_shard_stays(server, cache):
    index = prepared(server.folder / "d", TEXT, shard_tokens=20_000)
    shards = index.splits["train"].shards
    bound = 3 * shards[0].bytes
    found = ShardCache(f"{server.address}/d", shards, max_bytes=bound)
    for number in range(len(shards)):
        assert found.opened(number, lambda path: path.stat().st_size) == shards[number].bytes
        if found._ahead:
            found._ahead.join()
        there = [path for path in cache.iterdir() if path.suffix != ".lock"]
        assert sum(path.stat().st_size for path in there) <= bound
        assert f"{shards[number].sha256}.tar" in {path.name for path in there}
    with pytest.raises(DataError, match="HIERLM_DATA_CACHE_BYTES=100"):
        ShardCache(f"{server.address}/d", shards, max_bytes=100)


def test_a_shard_that_arrives_damaged_is_never_used(server, cache):
    prepared(server.folder / "d", TEXT)
    shard = server.folder / "d/train/shard-000000.tar"
    shard.write_bytes(shard.read_bytes().replace(TEXT[:8], b"damaged!", 1))
    with pytest.raises(DataError, match=r"shard-000000\.tar: arrived damaged"):
        open_split(f"{server.address}/d", "train").read(0, 1)
    assert not list(cache.glob("*.tar")) and not list(cache.glob("*.partial"))


def test_a_remote_place_without_a_dataset_is_one_line(server):
    with pytest.raises(DataError, match=r"dataset\.json: cannot be read") as error:
        load_index(f"{server.address}/nothing")
    assert "\n" not in str(error.value)
