"""Which steps go: never the newest ones, never the one just committed."""

from hypothesis import given
from hypothesis import strategies as st

from hierlm.checkpoint.retention import steps_to_remove


@given(valid=st.sets(st.integers(0, 50), min_size=1), keep=st.integers(1, 5), data=st.data())
def test_as_many_stay_as_asked_for_and_they_are_the_newest(valid: set[int], keep: int, data: st.DataObject) -> None:
    newest = data.draw(st.sampled_from(sorted(valid)))
    gone = set(steps_to_remove(sorted(valid), newest=newest, keep=keep))
    past = {step for step in valid if step <= newest}
    stay = past - gone
    assert newest in stay
    assert len(stay) == min(keep, len(past))
    assert all(old < new for old in gone for new in stay)
    assert gone <= past
