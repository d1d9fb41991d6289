"""The stages of a pipeline as text, as a table, as bars."""

from dataclasses import asdict
from typing import Any

from hierlm.report import formats
from hierlm.report.figures import color, layout
from hierlm.report.page import Panel, table
from hierlm.report.stage_balance import Stage, StageBalance

DOTTED = {"color": "#8b95a3", "dash": "dot"}
_HEADER = ("stage", "layers", "from", "to", "FLOPs", "with traffic")


def stage_document(balance: StageBalance | None) -> dict[str, Any]:
    """For --json; without stages where there is one."""
    if balance is None:
        return {"num_stages": 1}
    return {
        "num_stages": len(balance.stages),
        "imbalance": balance.imbalance,
        "time_imbalance": balance.time_imbalance,
        "stages": [asdict(stage) for stage in balance.stages],
    }


def stage_note(balance: StageBalance | None) -> str:
    """What there is to say in a sentence."""
    if balance is None:
        return "one stage"
    return (
        f"{len(balance.stages)} stages; predicted: the largest computes {formats.share(balance.imbalance)} more than "
        f"the mean, with traffic {formats.share(balance.time_imbalance)} more"
    )


def stage_rows(balance: StageBalance) -> list[list[str]]:
    """Header and a row per stage."""
    return [list(_HEADER), *(_cells(number, stage) for number, stage in enumerate(balance.stages))]


def stage_table(balance: StageBalance | None) -> str:
    """The rows as HTML; nothing for one stage."""
    if balance is None:
        return ""
    kinds = ("text", "", "text", "text", "", "")
    return table(list(zip(_HEADER, kinds, strict=True)), stage_rows(balance)[1:])


def stage_panel(balance: StageBalance) -> Panel:
    """A bar per stage, and the mean as a line: what sticks out over it is waited for."""
    numbers = [f"stage {number}" for number in range(len(balance.stages))]
    bars = {
        "type": "bar",
        "x": numbers,
        "y": [100 * stage.flops_share for stage in balance.stages],
        "marker": {"color": color(0)},
        "width": 0.5,
        "text": [formats.share(stage.flops_share) for stage in balance.stages],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "<b>%{x}</b> %{y:.1f} % of the FLOPs<extra></extra>",
    }
    mean = 100 / len(balance.stages)
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": mean, "y1": mean, "line": DOTTED}
    figure_layout = layout(x="", y="% of training FLOPs", shapes=[line])
    figure_layout["yaxis"]["rangemode"] = "tozero"
    return Panel("predicted share of each stage", {"data": [bars], "layout": figure_layout})


def _cells(number: int, stage: Stage) -> list[str]:
    shares = (formats.share(stage.flops_share), formats.share(stage.time_share))
    return [str(number), str(stage.num_layers), stage.first_layer, stage.last_layer, *shares]
