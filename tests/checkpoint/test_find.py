"""Only a checkpoint that is good to the last byte is loaded, and nothing is passed over in silence."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hierlm.checkpoint.find import checkpoint_at, list_checkpoints, newest_good, verify
from hierlm.checkpoint.layout import LATEST, MANIFEST, PARTIAL, step_dir
from hierlm.errors import UserError
from tests.checkpoint.making import on_every_rank, save


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    for step in (10, 20, 30):
        save(tmp_path, step, keep=3)
    return tmp_path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (lambda d: flip(d / "engine" / "hashed-0"), "engine/hashed-0: content differs from its checksum"),
    "truncated": (lambda d: (d / "memory" / "left-0").write_bytes(b""), "memory/left-0: 0 bytes, 11 expected"),
    "file gone": (lambda d: (d / "engine" / "hashed-0").unlink(), "engine/hashed-0: missing"),
    "folder gone": (lambda d: shutil.rmtree(d / "engine"), "engine/hashed-0: missing"),
    "no manifest": (lambda d: (d / MANIFEST).unlink(), "manifest.json: missing"),
    "bad manifest": (lambda d: flip(d / MANIFEST), "manifest.json"),
    "another's": (lambda d: shutil.copy(d.parent / "step-00000010" / MANIFEST, d), "its manifest is of step 10"),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("size", [1, 3])
def test_a_damaged_newest_is_passed_over_in_one_line(harm: str, size: int, checkpoints: Path) -> None:
    do, said = HARMS[harm]
    do(step_dir(checkpoints, 30))
    lines: list[str] = []
    found = on_every_rank(size, lambda team: newest_good(checkpoints, report=lines.append, team=team))
    assert [ref.step for ref in found] == [20] * size
    assert len(lines) == 1, lines
    assert "step-00000030 is damaged" in lines[0] and said in lines[0] and "\n" not in lines[0]


def test_a_good_newest_is_taken_without_a_word(checkpoints: Path) -> None:
    assert newest_good(checkpoints, report=pytest.fail).step == 30  # type: ignore[union-attr]


def test_an_interrupted_save_is_mentioned(checkpoints: Path) -> None:
    step_dir(checkpoints, 40, suffix=PARTIAL).mkdir()
    lines: list[str] = []
    assert newest_good(checkpoints, report=lines.append).step == 30  # type: ignore[union-attr]
    assert len(lines) == 1 and "save of step 40 was interrupted" in lines[0]


def test_none_good_is_refused_on_every_rank(checkpoints: Path) -> None:
    for step in (10, 20, 30):
        flip(step_dir(checkpoints, step) / "engine" / "hashed-0")
    found = on_every_rank(2, lambda team: newest_good(checkpoints, report=lambda line: None, team=team))
    assert [type(error) for error in found] == [UserError, UserError]
    assert "none of them is good" in str(found[0]) and len(found[0].problems) == 1


def test_checkpoints_that_vanished_are_missed(checkpoints: Path) -> None:
    """The pointer is a witness: with it, an emptied folder is not taken for a run that has not begun."""
    for step in (10, 20, 30):
        shutil.rmtree(step_dir(checkpoints, step))
    lines: list[str] = []
    with pytest.raises(UserError, match="none of them is good"):
        newest_good(checkpoints, report=lines.append)
    assert lines == [f"{checkpoints / LATEST} names step 30, which is gone"]


def test_a_vanished_newest_is_missed(checkpoints: Path) -> None:
    shutil.rmtree(step_dir(checkpoints, 30))
    lines: list[str] = []
    assert newest_good(checkpoints, report=lines.append).step == 20  # type: ignore[union-attr]
    assert lines == [f"{checkpoints / LATEST} names step 30, which is gone"]


@pytest.mark.parametrize("begun", [False, True], ids=["nothing", "killed in its first save"])
def test_a_run_that_never_committed_starts_afresh(begun: bool, tmp_path: Path) -> None:
    lines: list[str] = []
    if begun:
        step_dir(tmp_path, 10, suffix=PARTIAL).mkdir()
    assert newest_good(tmp_path / ("" if begun else "absent"), report=lines.append) is None
    assert len(lines) == begun  # never in silence


def test_a_step_can_be_asked_for(checkpoints: Path) -> None:
    assert checkpoint_at(checkpoints, 10).step == 10
    assert checkpoint_at(checkpoints, None).step == 30
    with pytest.raises(UserError, match="no checkpoint of step 11; there are: 10, 20, 30"):
        checkpoint_at(checkpoints, 11)
    flip(step_dir(checkpoints, 10) / "engine" / "hashed-0")
    with pytest.raises(UserError, match=r"step-00000010 is damaged: engine/hashed-0"):
        checkpoint_at(checkpoints, 10)
    with pytest.raises(UserError, match="no checkpoint yet"):
        checkpoint_at(checkpoints / "absent", None)


def test_verify_names_every_damaged_file(checkpoints: Path) -> None:
    directory = step_dir(checkpoints, 20)
    (directory / "memory" / "left-0").unlink()
    flip(directory / "engine" / "hashed-0")
    problems = {listed.step: verify(listed) for listed in list_checkpoints(checkpoints)}
    assert problems[10] == problems[30] == [] and len(problems[20]) == 2


def test_other_names_are_no_checkpoints(checkpoints: Path) -> None:
    for name in ("notes", "step-5", "step-00000050.universal", "step-00000050.removed", "step-00000050.converting"):
        (checkpoints / name).mkdir()
    assert [listed.step for listed in list_checkpoints(checkpoints)] == [10, 20, 30]
