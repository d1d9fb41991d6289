"""What a safetensors file says is believed as far as the file bears it out; its own library agrees on good ones."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from hierlm.checkpoint.safetensors_header import read_header
from hierlm.checkpoint.weights import SafetensorsWeights
from hierlm.errors import UserError

GOOD = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


def write(path: Path, header: Any, *, values: int = 24, padding: int = 0) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(values) + bytes(padding))
    return path


def test_what_the_formats_library_writes_is_read_in_blocks(tmp_path: Path) -> None:
    tensors = {
        "matrix": torch.randn(5, 7),
        "half": torch.randn(3, 2, 4).bfloat16(),
        "vector": torch.randn(9).half(),
        "double": torch.randn(2, 2).double(),
        "scalar": torch.tensor(3.0),
        "ids": torch.arange(6),
        "empty": torch.zeros(0, 4),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    weights = SafetensorsWeights(read_header(tmp_path / "x.safetensors"))
    assert weights.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert torch.equal(weights.block("matrix", rows=range(1, 4), columns=range(2, 7)), tensors["matrix"][1:4, 2:7])
    assert torch.equal(weights.block("half", rows=range(2, 6), columns=range(4)), tensors["half"].reshape(6, 4)[2:6])
    assert torch.equal(weights.block("vector", rows=range(3, 9), columns=range(1)), tensors["vector"][3:, None])
    assert torch.equal(weights.block("double", rows=range(2), columns=range(2)), tensors["double"])
    assert float(weights.block("scalar", rows=range(1), columns=range(1))) == 3.0


def test_values_that_lie_at_an_odd_place_are_read_too(tmp_path: Path) -> None:
    text = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    text += b" " * (3 - len(text) % 4)
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + values.numpy().tobytes())
    weights = SafetensorsWeights(read_header(tmp_path / "x"))
    assert weights.block("a", rows=range(1, 4), columns=range(1)).flatten().tolist() == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"{x", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ([], "no object"),
        (b'{"a": 1, "a": 2}', "twice"),
        ({"a": 3}, "not what the format asks for"),
        ({"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}}, "type that is not known"),
        ({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, "type that is not known"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "cannot be"),
        ({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, "cannot be"),
        ({"a": {"dtype": "F32", "shape": [1 << 70], "data_offsets": [0, 4]}}, "cannot be"),
        ({"a": {"dtype": "F32", "shape": [1 << 59, 1 << 59], "data_offsets": [0, 24]}}, "does not fill"),
        ({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [24, 0]}}, "does not fill"),
        ({"a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}}, "not in the file"),
        ({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}}, "behind its last tensor"),
        ({"a": {"dtype": "F32", "shape": [5], "data_offsets": [4, 24]}}, "gaps"),
        ({**GOOD, "b": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}, "over each other"),
    ],
)
def test_a_header_that_lies_is_refused_in_one_line(header: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=why) as refused:
        read_header(write(tmp_path / "x", header))
    (line,) = refused.value.problems
    assert str(tmp_path / "x") in line and "\n" not in line and len(line) < 600


def test_a_length_beyond_the_file_makes_no_room_in_memory(tmp_path: Path) -> None:
    for length in (1 << 62, 1 << 30, 90_000_000, 1, 0):
        (tmp_path / "x").write_bytes(length.to_bytes(8, "little") + b"{}")
        with pytest.raises(UserError, match="does not fit"):
            read_header(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"PK")
    with pytest.raises(UserError, match="no safetensors file"):
        read_header(tmp_path / "x")


def test_a_name_that_would_move_the_cursor_is_escaped(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        read_header(write(tmp_path / "x", {"\x1b[2Ja\nb\u202e": {"dtype": "F32"}}))
    (line,) = refused.value.problems
    assert line.isprintable() and "\x1b" not in line and "\u202e" not in line


@given(data=st.data())
def test_any_change_of_a_byte_gives_tensors_within_the_file_or_one_line(data: st.DataObject, tmp_path_factory) -> None:
    path = write(tmp_path_factory.getbasetemp() / "changed.safetensors", GOOD)
    held = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        held[data.draw(st.integers(0, len(held) - 25))] = data.draw(st.integers(0, 255))
    path.write_bytes(held[: data.draw(st.integers(0, len(held)))])
    try:
        found = read_header(path)
    except UserError as error:
        assert len(error.problems) == 1
    else:
        assert all(each.start + each.size <= path.stat().st_size for each in found.values())


def test_a_file_cut_short_after_its_header_was_read_is_no_crash(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x", {"a": {"dtype": "F32", "shape": [100_000], "data_offsets": [0, 400_000]}}, values=400_000
    )
    weights = SafetensorsWeights(read_header(path))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="shorter"):
        weights.block("a", rows=range(100_000), columns=range(1))
