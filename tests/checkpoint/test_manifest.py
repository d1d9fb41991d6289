"""A manifest is believed only as it was written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierlm.checkpoint.layout import MANIFEST
from hierlm.checkpoint.manifest import (
    Layout,
    Manifest,
    ManifestError,
    _checksum,
    make_manifest,
    read_manifest,
    write_manifest,
)
from hierlm.durable import FileRecord
from hierlm.parallel.config import ParallelConfig
from tests.checkpoint.making import facts

FILES = {"engine/b": FileRecord(size_bytes=2, sha256="b" * 64), "engine/a": FileRecord(size_bytes=1, sha256="a" * 64)}


def test_it_reads_what_it_wrote(tmp_path: Path) -> None:
    manifest = make_manifest(facts(7), files=FILES, save_seconds=1.23456)
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest.size_bytes == 3 and list(manifest.files) == ["engine/a", "engine/b"]
    assert {"hierlm", "torch", "deepspeed", "python"} <= manifest.versions.keys()


@given(data=st.data())
def test_no_flipped_bit_is_believed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("flip")
    write_manifest(folder, make_manifest(facts(7), files=FILES, save_seconds=1))
    before, content = read_manifest(folder), bytearray((folder / MANIFEST).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    (folder / MANIFEST).write_bytes(content)
    try:
        assert read_manifest(folder) == before  # white space may change without changing anything
    except ManifestError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "missing"),
        ("", "cannot be read"),
        ("[]", "differs from its checksum"),
        ('{"step": 1}', "differs from its checksum"),
    ],
)
def test_what_is_wrong_is_said(text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ManifestError, match=said):
        read_manifest(tmp_path)


def test_another_schema_is_refused_by_its_number(tmp_path: Path) -> None:
    newer = make_manifest(facts(7), files=FILES, save_seconds=1).model_copy(update={"schema_version": 99})
    write_manifest(tmp_path, newer)
    with pytest.raises(ManifestError, match="schema version 99, this hierlm reads 1"):
        read_manifest(tmp_path)


def test_the_manifest_is_plain_json_for_other_tools(tmp_path: Path) -> None:
    write_manifest(tmp_path, make_manifest(facts(7), files=FILES, save_seconds=1))
    content = json.loads((tmp_path / MANIFEST).read_text())
    assert content["step"] == 7 and content["files"]["engine/a"] == {"size_bytes": 1, "sha256": "a" * 64}


def test_a_layout_is_the_part_of_the_config_that_shapes_the_files() -> None:
    parallel = ParallelConfig(data_parallel_degree=2, pipeline_parallel_degree=3, zero_stage=0, micro_batch_size=4)
    assert Layout.of(parallel) == Layout(data_parallel_degree=2, pipeline_parallel_degree=3, zero_stage=0)
    assert str(Layout.of(parallel)) == "dp 2 x tp 1 x pp 3, ZeRO-0"


def written(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A manifest that somebody else wrote, checksum and all."""
    content = make_manifest(facts(7), files=FILES, save_seconds=1).model_dump(mode="json")
    change(content)
    (folder / MANIFEST).write_text(json.dumps({**content, "checksum": _checksum(content)}))
    return folder


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a//b", "a\nb", "a\0b", "."])
def test_files_lie_below_the_checkpoint(name: str, tmp_path: Path) -> None:
    folder = written(tmp_path, lambda content: content["files"].update({name: content["files"]["engine/a"]}))
    with pytest.raises(ManifestError, match=r"manifest\.json: files") as refused:
        read_manifest(folder)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(("field", "value"), [("sha256", "../../x"), ("sha256", "A" * 64), ("size_bytes", 1 << 62)])
def test_records_are_checksums_and_sizes(field: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=field):
        read_manifest(written(tmp_path, lambda content: content["files"]["engine/a"].update({field: value})))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(field=st.sampled_from([*Manifest.model_fields, "other"]), value=VALUES)
def test_any_value_of_any_field_is_read_or_refused(
    field: str, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        read_manifest(written(folder, lambda content: content.update({field: value})))
    except ManifestError as error:
        assert len(str(error).splitlines()) == 1
