"""Sums of what layers report: over micro-batches and ranks, by names agreed on only where they change."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from hierlm.nn.report import Report
from tests.distributed.spawn import run_ranks


def largest(numbers: torch.Tensor) -> float:
    return float(numbers.max())


def reports_of(stage: int, rows: torch.Tensor, *, phase: str) -> list[Report]:
    """`rows` [B] are numbers of the global batch's rows, from 1 on; each stage reports something else."""
    shares = torch.stack((rows, 2 * rows), dim=1)
    of_stage = {
        0: [Report("both", "loss", rows, weight=0.5), Report("first", "mean", rows), Report("peak", "sum", shares)],
        1: [Report("both", "loss", 3 * rows, weight=0.5), Report("last", "sum", rows)],
    }[stage]
    of_stage = [r._replace(finish=largest) if r.name == "peak" else r for r in of_stage]
    return of_stage if phase == "all" else of_stage[:1]


def totals_on_rank(phases: list[str]) -> dict[str, Any]:
    """Four ranks, two stages, two data-parallel ranks of three rows each in micro-batches of 2 and 1."""
    from hierlm.parallel.degrees import Degrees
    from hierlm.parallel.groups import start_groups
    from hierlm.parallel.process import start_processes
    from hierlm.parallel.report_totals import ReportTotals

    start_processes()
    groups = start_groups(Degrees(pipeline=2, data=2))
    totals, found, counts = ReportTotals(groups, device=torch.device("cpu")), [], []
    sent = {name: count(name) for name in ("all_reduce", "gather", "broadcast")}
    for phase in phases:
        totals.clear()
        for rows in torch.arange(1.0, 7.0)[groups.dp_rank * 3 :][:3].split(2):
            padded = torch.cat((rows, torch.tensor([100.0])))  # a row of padding, which counts nowhere
            totals.add_rows(len(rows))
            totals.add(reports_of(groups.pp_rank, padded, phase=phase), rows=padded < 100)
        before = {name: calls[0] for name, calls in sent.items()}
        gathered = totals.gather(torch.tensor(float(groups.dp_rank)))
        found.append((gathered.objective, gathered.named(gathered.objective)))
        counts.append({name: calls[0] - before[name] for name, calls in sent.items()})
    return {"found": found, "counts": counts}


def count(name: str) -> list[int]:
    """How often this process calls a function of torch.distributed from now on."""
    function, calls = getattr(dist, name), [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return function(*args, **kwargs)

    setattr(dist, name, counted)
    return calls


@pytest.mark.slow
@pytest.mark.distributed
def test_every_rank_learns_the_same_and_names_travel_only_when_they_change() -> None:
    ranks = run_ranks(totals_on_rank, 4, ["all", "all", "losses", "all"])
    everything = {
        "loss/both": 4 * 3.5,  # of two layers, each the mean over rows
        "loss/total": 0.5 + 0.5 * 4 * 3.5,
        "first": 3.5,
        "last": 21.0,
        "peak": 42.0,
    }
    losses = {name: everything[name] for name in ("loss/both", "loss/total")}
    for rank in ranks:
        assert [objective for objective, _ in rank["found"]] == [0.5] * 4
        assert [named for _, named in rank["found"]] == [everything, everything, losses, everything]
        once = {"all_reduce": 1, "gather": 0, "broadcast": 0}
        first = {"all_reduce": 4, "gather": 1, "broadcast": 1}  # numbers twice, and the lengths of the two messages
        assert rank["counts"] == [first, once, once, once]  # what falls silent keeps its place


def malformed_on_rank() -> list[str]:
    from hierlm.parallel.degrees import Degrees
    from hierlm.parallel.groups import start_groups
    from hierlm.parallel.process import start_processes
    from hierlm.parallel.report_totals import ReportTotals

    start_processes()
    groups, told = start_groups(Degrees()), []
    row, rows = torch.ones(2), torch.ones(2, 3)
    wrong = [
        [Report("grad_norm", "mean", row)],
        [Report("total", "loss", row)],
        [Report("with/slash", "mean", row)],
        [Report("many", "mean", rows)],
        [Report("many", "loss", rows, finish=largest)],
        [Report("scalar", "loss", torch.ones(()))],
        [Report("a", "mean", row), Report("a", "sum", row)],
    ]
    for reports in wrong:
        try:
            ReportTotals(groups, device=torch.device("cpu")).add(reports, rows=None)
        except ValueError as error:
            told.append(str(error))
    return told


@pytest.mark.distributed
def test_reports_that_cannot_be_shown_are_named() -> None:
    [told] = run_ranks(malformed_on_rank, 1)
    assert [line.split(":")[0] for line in told] == [
        "'grad_norm'",
        "'total'",
        "'with/slash'",
        "many",
        "many",
        "scalar",
        "a",
    ]
    assert "given [2, 3], allowed: [rows], or of a metric with `finish` [rows, numbers]" in told[3]
