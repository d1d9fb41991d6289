"""A few faults of the campaign that `make chaos` runs: nothing is lost and nothing comes out different."""

import errno
from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign, small_disk
from tests.chaos.catalogue import FAULTS
from tests.chaos.faults import (
    disk_full_in_a_save,
    flipped_bit,
    kill_in_a_reshape,
    kill_in_a_save,
    kill_in_an_evaluation,
    paused_attempt_woken,
)
from tests.chaos.injected_faults import clock_back_an_hour, errno_in
from tests.chaos.run import KINDS

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

NINE = (
    kill_in_a_save,
    flipped_bit,
    paused_attempt_woken,
    disk_full_in_a_save,
    kill_in_a_reshape,
    errno_in("save", errno.EIO),
    errno_in("save", errno.ESTALE),
    clock_back_an_hour,
    kill_in_an_evaluation,
)


def test_a_run_that_meets_nine_faults_ends_as_one_that_met_none(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path) as place:
        campaign = Campaign(place, dataset=tiny_dataset, num_steps=200, seed=7, say=print)
        campaign.strike(len(NINE), faults=NINE)
    assert not campaign.problems, campaign.summary() + capsys.readouterr().out
    assert len(campaign.outcomes) == len(NINE)


def test_a_run_that_was_over_before_anything_struck_it_is_not_taken_up_again(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, dataset=tmp_path, num_steps=1, seed=0, say=print)
    assert len({campaign._new_run().name for _ in range(3)}) == 3


def test_every_kind_of_run_and_every_fault_comes_in_its_turn(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, dataset=tmp_path, num_steps=1, seed=0, say=print, kinds=KINDS)
    assert [campaign._new_run().kind for _ in range(2 * len(KINDS))] == [*KINDS, *KINDS]
    names = [fault.__name__ for fault in FAULTS]
    assert len(names) == len(set(names)) == 35
    assert {"EIO_in_a_save", "ENOENT_in_a_lease", "controller_down", "kill_in_a_save"} <= set(names)
