"""A save and a resume cost a rank its own files, however many ranks there are; the first one pays for their number."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hierlm.checkpoint.commit import Saved
from hierlm.checkpoint.find import newest_good
from hierlm.checkpoint.team import Team
from tests.checkpoint.counting import counted_on, of_rank, touches_counted
from tests.checkpoint.making import facts, save
from tests.distributed.spawn import run_ranks

FILES_OF_A_RANK = 2
MEBIBYTE = 1 << 20


def saved_and_found(team: Team, *, folder: Path) -> tuple[Any, Any]:
    made = save(folder, 5, team=team)
    return made, newest_good(folder, report=pytest.fail, team=team)


def costs(size: int, folder: Path) -> tuple[dict[str, int], int, int]:
    """(touches of a rank that is not the first, by kind; those of the first one in all; the longest message)."""
    results, found, longest = counted_on(size, folder, partial(saved_and_found, folder=folder))
    assert all(isinstance(made, Saved) and there.step == 5 for made, there in results), results[0]
    others = [of_rank(found, rank) for rank in range(1, size)]
    usual = others[-1]
    # whoever comes first makes a folder: the others find it, or try as well
    making = sum(others[-1].values()) + 3
    assert all(sum(one.values()) <= making for one in others), max(others, key=lambda one: sum(one.values()))
    return usual, sum(of_rank(found, 0).values()), longest


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((8, 64), id="64"),
        pytest.param((64, 512), id="512", marks=pytest.mark.slow),
        pytest.param((512, 4096), id="4096", marks=pytest.mark.matrix),
    ],
)
def test_a_rank_pays_for_its_own_files_and_the_first_one_for_their_number(sizes: tuple[int, int], tmp_path: Path):
    small, large = (costs(size, tmp_path / str(size)) for size in sizes)
    assert small[0] == large[0]
    assert large[0]["fsync"] == FILES_OF_A_RANK and large[0]["open"] <= 4 * FILES_OF_A_RANK
    assert "listdir" not in large[0] and "scandir" not in large[0]
    assert sum(large[0].values()) <= 8 * FILES_OF_A_RANK
    files_more = FILES_OF_A_RANK * (sizes[1] - sizes[0])
    assert large[1] - small[1] <= files_more  # of each file of the others, at most one touch
    assert large[2] < MEBIBYTE


def touches_of_this_process(folder: str) -> dict[str, int]:
    """On a real rank, through a real process group."""
    from hierlm.parallel.messages import team_of
    from hierlm.parallel.process import start_processes

    process = start_processes()
    team = team_of()
    with touches_counted(Path(folder), lambda: process.rank) as found:
        saved_and_found(team, folder=Path(folder))
    return of_rank(found, process.rank)


@pytest.mark.distributed
def test_real_processes_touch_what_a_team_of_threads_does(tmp_path: Path) -> None:
    real = run_ranks(touches_of_this_process, 4, str(tmp_path / "real"))
    _, found, _ = counted_on(4, tmp_path / "fake", partial(saved_and_found, folder=tmp_path / "fake"))
    for rank in range(4):
        fake = of_rank(found, rank)
        raced = {"mkdir", "open", "stat"}  # the first to come makes the folder
        assert {k: n for k, n in real[rank].items() if k not in raced} == {
            k: n for k, n in fake.items() if k not in raced
        }
        assert abs(sum(real[rank].values()) - sum(fake.values())) <= 4, (rank, real[rank], fake)


def test_what_is_told_of_a_checkpoint_does_not_grow_with_its_files(tmp_path: Path) -> None:
    save(tmp_path, 5)
    assert facts(5).step == 5
    results, _, _ = counted_on(3, tmp_path, lambda team: newest_good(tmp_path, report=pytest.fail, team=team))
    assert [len(ref.manifest.files) for ref in results] == [2, 0, 0]
    assert len({ref.manifest.model_copy(update={"files": {}}).model_dump_json() for ref in results}) == 1
