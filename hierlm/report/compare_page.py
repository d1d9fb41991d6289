"""The page of `hierlm compare --html`: results, trade-offs, curves, differences of config."""

from datetime import UTC, datetime
from html import escape

from hierlm.report.columns import Column, all_columns, column_of
from hierlm.report.compare import Comparison, Row
from hierlm.report.figures import COSTS, color, curves, trade_off
from hierlm.report.page import Panel, Section, page, table


def compare_page(comparison: Comparison) -> str:
    """The whole HTML document."""
    num_runs = sum(len(row.runs) for row in comparison.rows)
    quality = column_of(comparison.quality)
    lead = f"{num_runs} run{'s' * (num_runs != 1)} · {datetime.now(UTC).strftime('%d %B %Y, %H:%M UTC')}"
    sections = [
        Section("Results", body=_results(comparison)),
        Section(
            f"Quality against cost: {quality.title}",
            note="Lower left is better. The dashed line is the Pareto front: nothing is both cheaper and better.",
            panels=_trade_offs(comparison),
        ),
        Section("Learning curves", note=_CURVES_NOTE, panels=[_curves(comparison)]),
        Section("Differences of config", body=_differences(comparison)),
        Section("What the columns mean", body=_legend()),
    ]
    return page(
        title=f"Experiment {comparison.experiment}",
        lead=lead,
        tiles=_tiles(comparison),
        sections=[section for section in sections if section.body or section.panels],
    )


_CURVES_NOTE = (
    "Thick with markers: valid split; thin: training, smoothed. Dotted: a phase begins. "
    "Click a name to hide a run, drag to zoom, double-click to go back. Of several seeds the first is drawn."
)


def _tiles(comparison: Comparison) -> dict[str, str]:
    """The winner of each column people ask for first."""
    asked = (comparison.quality, "peak_device_memory_bytes", "tokens_per_second")
    tiles = {}
    for key in asked:
        best = comparison.best(key)
        row = next((row for row in comparison.rows if best is not None and row.values[key] == best), None)
        if row is not None:
            tiles[f"best {column_of(key).title}: {row.label}"] = row.shown(key).partition(" ±")[0]
    return tiles


def _results(comparison: Comparison) -> str:
    columns = [c for c in all_columns() if any(row.values[c.key] is not None for row in comparison.rows)]
    head = "".join(_heading(column) for column in columns)
    body = "".join(
        "<tr>" + "".join(_cell(comparison, row, column, index=index) for column in columns) + "</tr>"
        for index, row in enumerate(comparison.rows)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _heading(column: Column) -> str:
    kind = "text" if column.shown is None else ""
    up = "0" if column.better == "high" else "1"
    return (
        f'<th class="{kind}" data-key="{column.key}" data-up="{up}" title="{escape(column.help)}">'
        f"{escape(column.title)}</th>"
    )


def _cell(comparison: Comparison, row: Row, column: Column, *, index: int) -> str:
    value = row.values[column.key]
    best = isinstance(value, int | float) and value == comparison.best(column.key)
    kind = "text" if column.shown is None else "best" if best else ""
    dot = f'<i class="dot" style="background:{color(index)}"></i>' if column.key == "run" else ""
    sortable = "" if value is None else escape(str(value))
    return f'<td class="{kind}" data-value="{sortable}">{dot}{escape(row.shown(column.key))}</td>'


def _trade_offs(comparison: Comparison) -> list[Panel]:
    drawn = [(title, trade_off(comparison, cost=cost)) for cost, title in COSTS.items()]
    return [Panel(f"against {title}", figure) for title, figure in drawn if figure is not None]


def _curves(comparison: Comparison) -> Panel:
    """One curve per row: of several seeds the first stands for the others."""
    runs = [(row.label, row.runs[0]) for row in comparison.rows]
    title = column_of(comparison.quality).title
    return Panel(title, curves(runs, field=comparison.quality, title=title), size="tall")


def _differences(comparison: Comparison) -> str:
    if not comparison.differences:
        return ""
    header = [("key", "text"), *((row.label, "text") for row in comparison.rows)]
    rows, classes = [], []
    for key, values in comparison.differences.items():
        cells = ["-" if value is None else value for value in values]
        usual = max(cells, key=cells.count)
        common = cells.count(usual) > 1
        rows.append([key, *cells])
        classes.append(["text", *("text usual" if common and c == usual else "text unusual" for c in cells)])
    return table(header, rows, classes=classes)


def _legend() -> str:
    return "<dl>" + "".join(f"<dt>{escape(c.title)}</dt><dd>{escape(c.help)}</dd>" for c in all_columns()) + "</dl>"
