"""The gradient norms of layers over the steps, of a run with `train.log_gradient_norms`."""

from hierlm.metric_names import GRAD_NORM_OF_LAYERS
from hierlm.report.figures import Figure, color, layout
from hierlm.report.run_record import RunRecord
from hierlm.report.series import thinned, training_curve

_MOST_POINTS = 300  # per layer


def layer_norm_fields(run: RunRecord) -> list[str]:
    """Names of the metrics, in the order of the layers."""
    return sorted({field for record in run.train for field in record if field.startswith(GRAD_NORM_OF_LAYERS)})


def layer_norms(run: RunRecord) -> Figure:
    """One line for each layer, on a logarithmic axis: layers differ by orders of magnitude."""
    curves = {field: thinned(training_curve(run, field), most_points=_MOST_POINTS) for field in layer_norm_fields(run)}
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": field.removeprefix("grad_norm."),
            "x": list(curve.x["steps"]),
            "y": list(curve.y),
            "line": {"color": color(index), "width": 1.3},
            "hovertemplate": f"<b>{field}</b> step %{{x}}: %{{y:.4~g}}<extra></extra>",
        }
        for index, (field, curve) in enumerate(curves.items())
    ]
    figure_layout = layout(x="steps", y="", showlegend=True)
    figure_layout["yaxis"]["type"] = "log"
    return {"data": traces, "layout": figure_layout}
