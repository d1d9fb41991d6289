"""An index that somebody else wrote names nothing outside its own folder, and asks for no room it may not have."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.names import MAX_NAME_BYTES, below_its_folder
from data_pipeline.read.shard_cache import ShardCache
from data_pipeline.read.split import open_split
from data_pipeline.shard_index import ShardRecord, load_index
from tests.data_pipeline.making import prepared
from tests.data_pipeline.test_remote import Server

ESCAPES = [
    "../../x",
    "/etc/passwd",
    "a/../../b",
    "..",
    ".",
    "",
    "a//b",
    "a/",
    "./a",
    "a\0b",
    "a\nb",
    "a\\..\\b",
    "x" * 2000,
]
SHARD = ("splits", "train", "shards", 0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small prepared dataset."""
    folder = tmp_path_factory.mktemp("foreign") / "data"
    prepared(folder, bytes(range(32, 127)) * 200)
    return folder


def changed(dataset: Path, folder: Path, place: tuple[Any, ...], value: Any) -> Path:
    """A folder whose dataset.json has one field replaced."""
    index = json.loads((dataset / "dataset.json").read_text())
    inner = index
    for part in place[:-1]:
        inner = inner[part]
    assert place[-1] in inner
    inner[place[-1]] = value
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("name", ESCAPES)
def test_names_and_checksums_that_lead_elsewhere_are_refused(name: str, dataset: Path, tmp_path: Path) -> None:
    places = [
        (*SHARD, "name"),
        (*SHARD, "sha256"),
        ("fingerprint",),
        ("tokenizer", "fingerprint"),
        ("tokenizer", "file"),
    ]
    for place in places:
        with pytest.raises(DataError, match=r"dataset\.json") as refused:
            load_index(changed(dataset, tmp_path / "d", place, name))
        assert len(refused.value.problems) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("bytes", 1 << 62), ("bytes", -1), ("bytes", 10), ("tokens", 1 << 61), ("source_bytes", 1e30), ("documents", "x")],
)
def test_counts_that_cannot_be_are_refused(field: str, value: Any, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prepare the dataset again"):
        load_index(changed(dataset, tmp_path / "d", (*SHARD, field), value))


@pytest.mark.parametrize("name", ["../up", "a\nb", ""])
def test_a_split_has_a_name_of_one_line(name: str, dataset: Path, tmp_path: Path) -> None:
    splits = json.loads((dataset / "dataset.json").read_text())["splits"]
    with pytest.raises(DataError, match="splits") as refused:
        load_index(changed(dataset, tmp_path / "d", ("splits",), {name: splits["train"]}))
    assert len(str(refused.value).splitlines()) == 1


def test_an_index_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"a":' * 100_000)
    with pytest.raises(DataError, match="cannot be read"):
        load_index(tmp_path)


@given(st.text(max_size=40), st.lists(st.sampled_from(["..", ".", "", "a", "b.tar", "~", "C:"]), max_size=5))
def test_an_accepted_name_stays_below_its_folder(text: str, parts: list[str]) -> None:
    for name in (text, "/".join(parts)):
        try:
            below_its_folder(name)
        except ValueError:
            continue
        path = PurePosixPath("/folder") / name
        assert path.parts[:2] == ("/", "folder") and ".." not in path.parts and len(path.parts) > 2
        assert "\0" not in name and "\n" not in name and len(name.encode()) <= MAX_NAME_BYTES


def test_a_remote_index_touches_no_file_of_its_reader(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "home" / "x.tar"
    victim.parent.mkdir()
    for path in (victim, victim.with_suffix(".lock"), victim.with_suffix(".partial")):
        path.write_text("mine")
    monkeypatch.setenv("HIERLM_DATA_CACHE", str(tmp_path / "home" / "cache" / "data"))
    server = Server(changed(dataset, tmp_path / "served", (*SHARD, "sha256"), "../../x"))
    try:
        with pytest.raises(DataError, match="sha256"):
            open_split(server.address, "train").read(0, 10)
    finally:
        server.close()
    assert {path.name: path.read_text() for path in victim.parent.iterdir() if path.is_file()} == {
        "x.tar": "mine",
        "x.lock": "mine",
        "x.partial": "mine",
    }


def test_a_shard_that_does_not_end_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "shard.tar").write_bytes(bytes(5 << 20))
    server = Server(tmp_path / "served")
    shard = ShardRecord(name="shard.tar", sha256="0" * 64, bytes=1024, tokens=1, source_bytes=1, documents=1)
    cache = ShardCache(server.address, [shard], folder=tmp_path / "cache", max_bytes=1 << 20)
    sizes: list[int] = []
    try:
        with pytest.raises(DataError, match="arrived damaged"):
            cache.opened(0, lambda path: sizes.append(path.stat().st_size))
    finally:
        server.close()
    assert not sizes and not list((tmp_path / "cache").glob("shard*"))
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) == 0
