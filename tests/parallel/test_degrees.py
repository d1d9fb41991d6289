"""Our groups, DeepSpeed's and megatron-core's are the same lists of ranks, for every layout up to 64 ranks."""

import pytest
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from megatron.core.parallel_state import RankGenerator

from hierlm.parallel import degrees as degrees_module
from hierlm.parallel.degrees import AXES, WHOLE_MODEL, Coordinates, Degrees

LAYOUTS = [
    Degrees(data=dp, tensor=tp, pipeline=pp)
    for dp in range(1, 65)
    for tp in range(1, 64 // dp + 1)
    for pp in range(1, 64 // (dp * tp) + 1)
]


def as_sets(groups):
    return {tuple(group) for group in groups}


def test_there_are_enough_layouts_to_mean_something():
    assert len(LAYOUTS) > 500


@pytest.mark.parametrize("world_size", [1, 2, 8, 48, 64])
def test_ranks_and_places_are_one_to_one(world_size):
    for degrees in (d for d in LAYOUTS if d.world_size == world_size):
        places = [degrees.coordinates(rank) for rank in range(world_size)]
        assert len(set(places)) == world_size
        assert [degrees.rank_at(place) for place in places] == list(range(world_size))


def test_groups_equal_those_of_megatron_core():
    for degrees in LAYOUTS:
        theirs = RankGenerator(
            tp=degrees["tensor"], ep=1, dp=degrees["data"], pp=degrees["pipeline"], cp=1, order="tp-cp-ep-dp-pp"
        )
        assert as_sets(degrees.groups("tensor")) == as_sets(theirs.get_ranks("tp")), degrees
        assert as_sets(degrees.groups("data")) == as_sets(theirs.get_ranks("dp")), degrees
        assert as_sets(degrees.groups("pipeline")) == as_sets(theirs.get_ranks("pp")), degrees
        assert as_sets(degrees.groups(*WHOLE_MODEL)) == as_sets(theirs.get_ranks("tp-pp")), degrees


def test_groups_equal_those_of_deepspeed():
    for degrees in LAYOUTS:
        theirs = PipeModelDataParallelTopology(
            num_pp=degrees["pipeline"], num_mp=degrees["tensor"], num_dp=degrees["data"]
        )
        for ours, axis, size in (
            (degrees.groups("tensor"), "model", degrees["tensor"]),
            (degrees.groups("data"), "data", degrees["data"]),
            (degrees.groups("pipeline"), "pipe", degrees["pipeline"]),
        ):
            assert size == 1 or as_sets(ours) == as_sets(theirs.get_axis_comm_lists(axis)), (degrees, axis)
        models = [sorted(theirs.get_axis_list(axis="data", idx=dp_rank)) for dp_rank in range(degrees["data"])]
        assert as_sets(degrees.groups(*WHOLE_MODEL)) == as_sets(models), degrees


def test_an_axis_that_is_not_named_is_neutral_and_an_unknown_one_is_refused():
    assert Degrees(tensor=2) == Degrees(pipeline=1, data=1, tensor=2) and dict(Coordinates()) == dict.fromkeys(AXES, 0)
    assert Degrees(tensor=2).replaced(data=3) == Degrees(data=3, tensor=2)
    assert len({Degrees(data=2), Degrees(data=2), Degrees(tensor=2)}) == 2
    with pytest.raises(AssertionError, match="no axis"):
        Degrees(context=2)


def test_a_further_axis_is_one_more_name(monkeypatch):
    """Arithmetic, places and groups follow the names."""
    monkeypatch.setattr(degrees_module, "AXES", ("pipeline", "data", "context", "tensor"))
    degrees = Degrees(data=2, context=3, tensor=2)
    assert degrees.world_size == 12
    assert [degrees.rank_at(degrees.coordinates(rank)) for rank in range(12)] == list(range(12))
    assert degrees.groups("context") == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]
    assert degrees.groups("data", "context", "tensor") == [list(range(12))]
