"""A few faults of the campaign that `make chaos` runs: nothing is lost and nothing comes out different."""

from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign, small_disk
from tests.chaos.faults import (
    disk_full_in_a_save,
    flipped_bit,
    kill_in_a_reshape,
    kill_in_a_save,
    kill_in_an_evaluation,
    paused_attempt_woken,
)

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

SIX = (kill_in_a_save, flipped_bit, paused_attempt_woken, disk_full_in_a_save, kill_in_a_reshape, kill_in_an_evaluation)


def test_a_run_that_meets_six_faults_ends_as_one_that_met_none(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path) as place:
        campaign = Campaign(place, dataset=tiny_dataset, num_steps=150, seed=7, say=print)
        campaign.strike(len(SIX), faults=SIX)
    assert not campaign.problems, campaign.summary() + capsys.readouterr().out
    assert len(campaign.outcomes) == len(SIX)


def test_a_run_that_was_over_before_anything_struck_it_is_not_taken_up_again(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, dataset=tmp_path, num_steps=1, seed=0, say=print)
    assert len({campaign._new_run().name for _ in range(3)}) == 3
