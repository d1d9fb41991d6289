"""Which steps go: never the newest ones, never the one just committed, never what a class holds."""

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.read.cursor import Cursor
from hierlm.checkpoint.commit import save_checkpoint
from hierlm.checkpoint.find import checkpoint_at, newest_good
from hierlm.checkpoint.layout import steps_present
from hierlm.checkpoint.manifest import Why
from hierlm.checkpoint.retention import EMERGENCIES, steps_to_remove
from hierlm.checkpoint.team import ALONE
from hierlm.errors import UserError
from tests.checkpoint.making import facts, write_two_files

VALID = st.dictionaries(st.integers(1, 50), st.sampled_from(get_args(Why)), min_size=1)


@given(valid=VALID, keep=st.integers(1, 5), keep_every=st.none() | st.integers(1, 20), data=st.data())
def test_each_class_keeps_its_own_and_the_newest_of_the_rest_stay(
    valid: dict[int, Why], keep: int, keep_every: int | None, data: st.DataObject
) -> None:
    newest = data.draw(st.sampled_from(sorted(valid)))
    gone = set(steps_to_remove(valid, newest=newest, keep=keep, keep_every=keep_every))
    past = {step for step in valid if step <= newest}
    stay = past - gone
    assert newest in stay and gone <= past
    assert all(valid[step] != "phase_boundary" for step in gone)
    assert not any(keep_every and step % keep_every == 0 for step in gone)
    assert max((step for step in past if valid[step] in EMERGENCIES), default=newest) in stay
    rolling = {step for step in past if valid[step] == "periodic" and not (keep_every and step % keep_every == 0)}
    assert len(stay & rolling) <= keep and all(old < new for old in gone for new in stay & rolling)
    assert len(stay) >= min(keep, len(past))


def test_a_run_of_two_phases_that_was_stopped_once(tmp_path: Path) -> None:
    saved: dict[int, Why] = {step: "periodic" for step in (10, 20, 30, 50, 60, 70, 80)}
    saved |= {25: "stop", 40: "phase_boundary", 90: "final"}
    left = {}
    for step, why in sorted(saved.items()):
        made = facts(step).model_copy(update={"why": why})
        save_checkpoint(tmp_path, facts=made, write=write_two_files(step), team=ALONE, keep=2, keep_every=30)
        left[step] = steps_present(tmp_path)
    assert left[30] == [10, 20, 25, 30]  # a stop pushes nothing out
    assert left[50] == [20, 25, 30, 40, 50]
    assert left[80] == [25, 30, 40, 60, 70, 80]
    assert left[90] == [30, 40, 60, 70, 80, 90]  # the stop before gives way to the end


def test_one_whose_losses_were_not_finite_pushes_no_good_one_out_and_is_not_gone_on_from(tmp_path: Path) -> None:
    cursor = Cursor(seed=1, data_pass=0, first_sample=8, fingerprints=("f",))
    good, lost = ({"cursor": cursor, "proof": proof} for proof in ((5.0,), None))
    for step, state in ((10, good), (20, lost), (30, lost), (40, lost)):
        made = facts(step).model_copy(update=state)
        save_checkpoint(tmp_path, facts=made, write=write_two_files(step), team=ALONE, keep=1)
    assert 10 in steps_present(tmp_path)
    told: list[str] = []
    found = newest_good(tmp_path, report=told.append)
    assert found is not None and found.step == 10
    assert all("not finite" in line for line in told) and len(told) == len(steps_present(tmp_path)) - 1
    with pytest.raises(UserError, match="losses were not finite"):
        checkpoint_at(tmp_path, 40)
