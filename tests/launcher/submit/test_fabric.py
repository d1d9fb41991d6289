"""Bandwidth is measured between real processes, and a link below the cluster file's figure is named."""

from pathlib import Path
from typing import Any

import pytest

from launcher.cluster import ClusterProfile, Fabric
from launcher.submit.fabric import fabric_checks, judged


def found(*links: tuple[str, bool, float], all_reduce: float = 10.0) -> dict[str, Any]:
    named = [{"between": between, "same_host": same, "rate": rate} for between, same, rate in links]
    return {
        "num_processes": 4,
        "backend": "gloo",
        "hosts": ["a", "b"],
        "all_reduce_gigabytes_per_second": all_reduce,
        "links": sorted(named, key=lambda link: link["rate"]),
    }


LINKS = (("rank 0 (a) -> rank 1 (a)", True, 40.0), ("rank 1 (a) -> rank 2 (b)", False, 4.0))


def test_the_slow_link_is_named_and_the_others_pass() -> None:
    wanted = Fabric(
        all_reduce_gigabytes_per_second=11,
        link_in_node_gigabytes_per_second=50,
        link_between_nodes_gigabytes_per_second=12,
    )
    together, inside, between = judged(found(*LINKS), wanted)
    assert (together.state, inside.state, between.state) == ("ok", "ok", "wrong")
    assert "rank 1 (a) -> rank 2 (b)" in between.detail and "33% of the cluster file's 12" in between.detail


def test_without_figures_nothing_is_judged() -> None:
    assert {check.state for check in judged(found(*LINKS, all_reduce=0.001), None)} == {"ok"}


@pytest.mark.slow
@pytest.mark.distributed
def test_real_processes_measure_what_no_memory_could_carry_as_too_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    site = ClusterProfile(fabric=Fabric(all_reduce_gigabytes_per_second=1e6, link_in_node_gigabytes_per_second=1e-6))
    checks, measured = fabric_checks(site, num_processes=3, mebibytes=1)
    assert measured is not None and measured["num_processes"] == 3 and len(measured["links"]) == 2
    assert {link["between"].partition(" (")[0] for link in measured["links"]} == {"rank 0", "rank 1"}
    assert [check.state for check in checks] == ["wrong", "ok"]
    assert list(tmp_path.iterdir()) == []
