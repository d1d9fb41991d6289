"""The process that differs from the others is named with its host and the difference."""

from hierlm.train.environment import MUST_AGREE, Facts, clock_warnings, differences, parted_tensor_group
from tests.distributed.spawn import run_ranks


def facts(rank: int, host: str, *, clock: float = 0.0, **odd: str) -> Facts:
    return Facts(rank, host, clock, {name: "1" for name in MUST_AGREE} | odd)


def test_equal_processes_have_no_differences() -> None:
    assert differences([facts(0, "a"), facts(1, "b")]) == []


def test_the_host_that_stands_out_is_named_once_with_all_its_ranks() -> None:
    found = differences(
        [facts(0, "a"), facts(1, "a"), facts(2, "a"), facts(3, "b", torch="2"), facts(4, "b", torch="2")]
    )
    assert found == ["host b (ranks 3, 4): torch 2, most have 1"]


def test_one_bad_device_among_good_ones_of_a_host_is_told_from_them() -> None:
    assert differences([facts(0, "a"), facts(1, "a", computes="9"), facts(2, "b")]) == [
        "host a (ranks 1): computes 9, most have 1"
    ]


def test_a_clock_that_is_far_off_is_told() -> None:
    assert clock_warnings([facts(0, "a"), facts(1, "b", clock=-90.0), facts(2, "c", clock=5.0)]) == [
        "warning: the clock of b is -90 s off that of a"
    ]


def check() -> list[str]:
    from hierlm.parallel.messages import team_of
    from hierlm.parallel.process import start_processes
    from hierlm.train.environment import check_environment

    return check_environment(start_processes(), team=team_of())


def test_real_processes_of_one_machine_agree() -> None:
    assert run_ranks(check, 2) == [[], []]


def test_a_tensor_group_on_two_hosts_is_refused_by_its_ranks() -> None:
    everyone = [facts(rank, "ab"[rank // 3]) for rank in range(6)]
    assert parted_tensor_group(everyone, tensor_degree=3) is None
    said = parted_tensor_group(everyone, tensor_degree=2)
    assert said is not None and "given 2, and ranks 2 to 3 are on a, b" in said and "\n" not in said
