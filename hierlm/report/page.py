"""One self-contained HTML page: styles, script, data and Plotly inside, and the page itself forbids any request."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Literal

from hierlm.report.figures import Figure
from hierlm.report.series import AXES

_NO_REQUESTS = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


@dataclass(frozen=True)
class Panel:
    """A figure with its caption; a figure with variants gets buttons to choose the axis. Small ones stand in a grid."""

    caption: str
    figure: Figure
    size: Literal["small", "tall", "flat"] = "small"


@dataclass(frozen=True)
class Section:
    """A heading, a remark, ready HTML (tables), and figures."""

    title: str
    note: str = ""
    body: str = ""
    panels: Sequence[Panel] = ()


def page(*, title: str, lead: str, tiles: Mapping[str, str], sections: Sequence[Section]) -> str:
    """The whole document. `title`, `lead`, tiles, headings and captions are text; a section's body is HTML."""
    figures = {f"figure-{s}-{p}": panel for s, section in enumerate(sections) for p, panel in enumerate(section.panels)}
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_NO_REQUESTS}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
            f"<title>{escape(title)}</title>",
            f"<style>{_asset('page.css')}</style>",
            f"<script>{_plotly()}</script></head><body><main>",
            f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>',
            _tiles(tiles),
            *(_section(index, section) for index, section in enumerate(sections)),
            f'</main><script type="application/json" id="figures">{_json(figures)}</script>',
            f"<script>{_asset('page.js')}</script></body></html>",
        ]
    )


def table(
    header: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], *, classes: Sequence[Sequence[str]] | None = None
) -> str:
    """An HTML table of text cells; `header` is (title, class); `classes` adds one to each cell."""
    classes = classes or [[kind for _, kind in header]] * len(rows)
    head = "".join(f'<th class="{kind}">{escape(title)}</th>' for title, kind in header)
    body = "".join(
        "<tr>" + "".join(f'<td class="{k}">{escape(c)}</td>' for c, k in zip(row, kinds, strict=True)) + "</tr>"
        for row, kinds in zip(rows, classes, strict=True)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _section(index: int, section: Section) -> str:
    note = f'<p class="note">{escape(section.note)}</p>' if section.note else ""
    panels = "".join(_panel(f"figure-{index}-{position}", panel) for position, panel in enumerate(section.panels))
    grid = panels if any(panel.size != "small" for panel in section.panels) else f'<div class="grid">{panels}</div>'
    return f"<section><h2>{escape(section.title)}</h2>{note}{section.body}{grid if panels else ''}</section>"


def _panel(identity: str, panel: Panel) -> str:
    axes = list(panel.figure.get("variants", {}))
    names = {"tokens": "tokens", "steps": "steps", "seconds": "time", "flops": "FLOPs"}
    assert set(names) == set(AXES)
    buttons = "".join(
        f'<button data-axis="{axis}" class="{"on" if axis == "tokens" else ""}">{names[axis]}</button>' for axis in axes
    )
    switch = f'<span class="axes">{buttons}</span>' if len(axes) > 1 else ""
    caption = f"<figcaption>{switch}{escape(panel.caption)}</figcaption>"
    return f'<figure>{caption}<div class="plot {panel.size}" id="{identity}"></div></figure>'


def _tiles(tiles: Mapping[str, str]) -> str:
    inside = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in tiles.items())
    return f'<div class="tiles">{inside}</div>' if inside else ""


def _json(panels: Mapping[str, Panel]) -> str:
    """`<` is escaped so that no text of a config can end the script element."""
    data = json.dumps({identity: panel.figure for identity, panel in panels.items()}, allow_nan=False)
    return data.replace("<", "\\u003c")


def _asset(name: str) -> str:
    return files("hierlm.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    return files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")
