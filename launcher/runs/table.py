"""How the status of runs is shown: a table on a terminal, one greppable line per run in a log."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from launcher.runs.view import RunStatus

if TYPE_CHECKING:
    from rich.table import Table

_COLOURS = {"running": "green", "finished": "blue", "failed": "red", "cancelled": "red", "waiting": "yellow"}


def _eta(status: RunStatus) -> str:
    return "" if status.eta_seconds is None else str(timedelta(seconds=round(status.eta_seconds)))


def _step(status: RunStatus) -> str:
    return "" if status.num_steps is None else f"{status.step or 0}/{status.num_steps}"


_COLUMNS: tuple[tuple[str, Callable[[RunStatus], str]], ...] = (
    ("run", lambda status: status.run),
    ("state", lambda status: status.state),
    ("phase", lambda status: status.phase or ""),
    ("step", _step),
    ("loss", lambda status: "" if status.loss is None else f"{status.loss:.4f}"),
    ("tok/s", lambda status: "" if status.tokens_per_second is None else f"{status.tokens_per_second:,.0f}"),
    ("eta", _eta),
    ("attempts", lambda status: str(status.attempts)),
    ("job", lambda status: " ".join(status.job_ids)),
    ("nodes", lambda status: status.nodes or ""),
    ("why", lambda status: status.reason or ""),
)


def line(status: RunStatus) -> str:
    """`demo-hourglass | state running | step 40/200 | ...`, what is not known left out."""
    named = ((name, value(status)) for name, value in _COLUMNS[1:])
    return " | ".join([status.run, *(f"{name} {text}" for name, text in named if text)])


def table(statuses: Sequence[RunStatus], *, caption: str | None = None) -> "Table":
    """For a rich console; columns that are empty for every run are left out."""
    from rich.table import Table

    shown = [(name, value) for name, value in _COLUMNS if any(value(status) for status in statuses)]
    grid = Table(box=None, pad_edge=False, caption=caption, caption_justify="left", header_style="bold")
    for name, _ in shown:
        grid.add_column(name, justify="right" if name in ("step", "loss", "tok/s", "eta", "attempts") else "left")
    for status in statuses:
        colour = _COLOURS.get(status.state)
        cells = ((name, value(status)) for name, value in shown)
        grid.add_row(*(f"[{colour}]{text}[/]" if name == "state" and colour else _plain(text) for name, text in cells))
    return grid


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
