"""Files of tensors give up tensors and plain data, whatever is asked of them, and run nothing."""

import pickle
import subprocess
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hierlm.checkpoint.archive import problem_of
from hierlm.checkpoint.canonical import read_canonical
from hierlm.checkpoint.recurrent import MEMORY, read_recurrent_states
from hierlm.checkpoint.tensor_file import Sealed, read_mapping, read_tensors
from hierlm.errors import UserError
from tests.checkpoint.hostile import ATTACKS, write_archive
from tests.conftest import ROOT


def test_tensors_come_back_and_the_engines_objects_are_sealed_data(tmp_path: Path) -> None:
    from deepspeed.utils.tensor_fragment import fragment_address

    shared = torch.arange(12.0).view(3, 4)
    content = {
        "half": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
        "trained": torch.nn.Parameter(torch.ones(3)),
        "a column": shared[:, 1],
        "its whole": shared,
        "scalar": torch.tensor(7),
        "empty": torch.empty(2, 0),
        "address": fragment_address(start=3, numel=4),
        "shape": torch.Size([2, 3]),
        "plain": [1, 2.5, "x", None, True, {"a": (1,), "big": 1 << 70}, {3, 4}, ()],
    }
    torch.save(content, tmp_path / "x.pt")
    assert problem_of(tmp_path / "x.pt") is None
    for is_mapped in (True, False):
        read = read_tensors(tmp_path / "x.pt", is_mapped=is_mapped)
        for name in ("half", "trained", "a column", "its whole", "scalar", "empty"):
            assert torch.equal(read[name], content[name]) and read[name].dtype == content[name].dtype  # type: ignore[arg-type, union-attr]
            assert isinstance(read["address"], Sealed) and vars(read["address"]) == {"start": 3, "numel": 4}
        assert read["shape"] == content["shape"] and read["plain"] == content["plain"]
        read["its whole"][0, 1] = 100.0
        assert read["a column"][0] == 100.0  # they share memory as they did
    assert torch.equal(read_tensors(tmp_path / "x.pt")["its whole"], shared)  # the file was not written to


def test_what_is_read_at_once_outlives_the_file(tmp_path: Path) -> None:
    torch.save({"x": torch.arange(1000)}, tmp_path / "x.pt")
    read = read_mapping(tmp_path / "x.pt", is_mapped=False)
    (tmp_path / "x.pt").write_bytes(b"")
    assert torch.equal(read["x"], torch.arange(1000))


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_file_that_would_run_code_is_refused_by_every_reader(attack: str, tmp_path: Path) -> None:
    mark, engine, memory = tmp_path / "mark", tmp_path / "engine", tmp_path / MEMORY
    engine.mkdir()
    memory.mkdir()
    for path in (engine / "mp_rank_00_model_states.pt", memory / "rank-0000.pt"):
        write_archive(path, ATTACKS[attack](mark))
    readers: list[Any] = [
        lambda: read_tensors(engine / "mp_rank_00_model_states.pt"),
        lambda: read_canonical(engine),
        lambda: read_recurrent_states(tmp_path),
    ]
    for read in readers:
        with pytest.raises(UserError, match="nothing of it was run") as refused:
            read()
        assert len(refused.value.problems) == 1 and len(str(refused.value).splitlines()) == 1
    assert problem_of(engine / "mp_rank_00_model_states.pt") is not None
    assert not mark.exists()


@pytest.mark.parametrize("attack", [name for name in ATTACKS if not name.startswith("by_a_") and "_type" not in name])
def test_an_unpickler_would_have_run_it(attack: str, tmp_path: Path) -> None:
    with suppress(Exception):
        pickle.loads(ATTACKS[attack](tmp_path / "mark"))
    assert (tmp_path / "mark").exists()


def test_nothing_is_looked_up_or_started(tmp_path: Path) -> None:
    for name, attack in ATTACKS.items():
        write_archive(tmp_path / f"{name}.pt", attack(tmp_path / "mark"))
    torch.save({"x": torch.ones(3)}, tmp_path / "good.pt")
    program = f"""
import encodings.cp437  # zipfile decodes names by it
import sys
from pathlib import Path
import torch
from hierlm.checkpoint.archive import problem_of
from hierlm.checkpoint.tensor_file import read_tensors
read_tensors(Path({str(tmp_path)!r}) / "good.pt")
seen = []
forbidden = ("pickle", "os.system", "os.exec", "os.posix_spawn", "subprocess", "import", "exec", "compile", "ctypes")
sys.addaudithook(lambda event, args: seen.append((event, args)) if event.startswith(forbidden) else None)
for path in sorted(Path({str(tmp_path)!r}).glob("*.pt")):
    try:
        read_tensors(path)
    except ValueError:
        assert path.name != "good.pt" and problem_of(path)
    else:
        assert path.name == "good.pt"
assert not seen, seen
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (5,), (1,)), (3, (2,), (1,)), (0, (1 << 40,), (0,)), (0, (2,), (1 << 62,)), (-1, (1,), (1,)), (0, (1,), ())],
)
def test_a_tensor_lies_inside_its_values(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...], tmp_path: Path
) -> None:
    content = pickle.dumps((offset, shape, strides), protocol=2)[2:-1]
    head = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    storage = b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
    for name, middle in (("bad", content), ("good", pickle.dumps((0, (4,), (1,)), protocol=2)[2:-1])):
        # the three arguments are put where the call wants them one by one
        parts = pickle.loads(b"\x80\x02" + middle + b".")
        written = b"".join(pickle.dumps(part, protocol=2)[2:-1] for part in parts)
        path = tmp_path / f"{name}.pt"
        write_archive(path, head + storage + written + b"tR.", **{"data/0": bytes(16)})
    assert read_tensors(tmp_path / "good.pt").tolist() == [0.0] * 4
    with pytest.raises(UserError, match="describes a tensor that"):
        read_tensors(tmp_path / "bad.pt")


def test_other_archives_are_refused(tmp_path: Path) -> None:
    torch.save({"x": 1}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "program.pt"))
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("no tensors")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UserError, match=r"\.pt: is no archive of tensors"):
            read_tensors(path)


def _good_file() -> bytes:
    content = {"module": {"a.weight": torch.arange(4.0)}, "names": [["a.weight"]], "step": 3}
    file = BytesIO()
    torch.save(content, file)
    return file.getvalue()


GOOD = _good_file()


def _damaged(changes: list[tuple[float, int]], end: float) -> bytes:
    content = bytearray(GOOD)
    for place, value in changes:
        content[int(place * len(content))] = value
    return bytes(content[: int(end * len(content)) + 1])


PLACES = st.floats(0, 1, exclude_max=True)
CHANGES = st.lists(st.tuples(PLACES, st.integers(0, 255)), max_size=4)
ENDS = st.one_of(st.just(0.9999999), PLACES)


def _reads_or_refuses(folder: Path, content: bytes) -> None:
    path = folder / "x.pt"
    path.write_bytes(content)
    problem = problem_of(path)
    try:
        read_tensors(path)
    except UserError:
        assert problem is not None
    else:
        assert problem is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(changes=CHANGES, end=ENDS)
def test_of_any_bytes_a_file_is_read_or_refused(
    changes: list[tuple[float, int]], end: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    _reads_or_refuses(folder, _damaged(changes, end))


@pytest.mark.matrix
@settings(max_examples=3000, deadline=None, derandomize=True)
@given(changes=CHANGES, end=ENDS)
def test_of_many_more_bytes_too(
    changes: list[tuple[float, int]], end: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    _reads_or_refuses(folder, _damaged(changes, end))
