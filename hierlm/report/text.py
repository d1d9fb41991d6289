"""Tables on a terminal (colours, as many columns as fit) and in a log or a pipe (plain aligned text, all of it)."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hierlm.report.columns import all_columns, column_of
from hierlm.report.compare import Comparison

if TYPE_CHECKING:
    from rich.table import Table

_GAP = 2
_RICH_GAP = 3  # padding on both sides and the separator


def show(comparison: Comparison) -> None:
    """Print the table and the differences of config."""
    if sys.stdout.isatty():
        _show_rich(comparison)
    else:
        print(plain(comparison))


def plain(comparison: Comparison) -> str:
    """Aligned text without colours or lines; columns nobody knows anything about are left out."""
    keys = _known_columns(comparison)
    header = [column_of(key).title for key in keys]
    lines = aligned([header, *([row.shown(key) for key in keys] for row in comparison.rows)])
    if comparison.differences:
        labels = [row.label for row in comparison.rows]
        lines += ["", *aligned([["config", *labels], *_difference_rows(comparison)])]
    return "\n".join(lines)


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    right = [all(_is_numeric(cell) for cell in column[1:]) for column in zip(*table, strict=True)]
    return [
        (" " * _GAP)
        .join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        .rstrip()
        for row in table
    ]


def _is_numeric(cell: str) -> bool:
    return cell == "-" or cell[:1].isdigit()


def _known_columns(comparison: Comparison) -> list[str]:
    return [c.key for c in all_columns() if any(row.values[c.key] is not None for row in comparison.rows)]


def _difference_rows(comparison: Comparison) -> list[list[str]]:
    return [[key, *("-" if v is None else v for v in values)] for key, values in comparison.differences.items()]


def _show_rich(comparison: Comparison) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    keys = _fitting(comparison, width=console.width)
    table = Table(title=f"experiment {comparison.experiment}", box=box.SIMPLE_HEAD, title_justify="left")
    for key in keys:
        table.add_column(
            column_of(key).title, justify="left" if column_of(key).shown is None else "right", no_wrap=True
        )
    for row in comparison.rows:
        table.add_row(
            *(_cell(row.shown(key), best=row.values[key] == comparison.best(key) is not None) for key in keys)
        )
    console.print(table)
    hidden = len(_known_columns(comparison)) - len(keys)
    if hidden:
        console.print(f"{hidden} more columns do not fit {console.width} characters; --json and --html have all")
    if comparison.differences:
        console.print(_differences_table(comparison))


def _differences_table(comparison: Comparison) -> "Table":
    """One line per config key; values that most rows share are dimmed, so what stands out is the difference."""
    from rich import box
    from rich.table import Table

    table = Table(title="differences of config", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("key", no_wrap=True)
    for row in comparison.rows:
        table.add_column(row.label, overflow="fold")
    for key, *cells in _difference_rows(comparison):
        usual = max(cells, key=cells.count)
        table.add_row(key, *(f"[dim]{c}[/]" if c == usual and cells.count(c) > 1 else f"[bold]{c}[/]" for c in cells))
    return table


def _cell(text: str, *, best: bool) -> str:
    return f"[bold green]{text}[/]" if best else text


def _fitting(comparison: Comparison, *, width: int) -> list[str]:
    """Columns in their order of importance, as long as the terminal has room."""
    kept, used = [], 1
    for key in _known_columns(comparison):
        cells = [column_of(key).title, *(row.shown(key) for row in comparison.rows)]
        used += max(map(len, cells)) + _RICH_GAP
        if used <= width:
            kept.append(key)
    return kept
