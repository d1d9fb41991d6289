"""The evaluation of a mixture: every source by itself, and their weighted mean, which is the run's headline.

The weights are those by which training draws rows in the phase that is evaluated (`data_weights`, else the sources'
own), so that the mean estimates what the phase minimises; a source of weight 0 is evaluated and has no part in it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hierlm import metric_names
from hierlm.bits import perplexity
from hierlm.train.evaluation import Evaluation

Metrics = dict[str, Any]


class MixtureEvaluation:
    """One evaluation per source, by name; None for a source without the split."""

    def __init__(self, evaluations: Mapping[str, Evaluation | None]) -> None:
        self._evaluations = dict(evaluations)

    def run(self, *, weights: Sequence[float], sequence_length: int, max_rows: int | None) -> Metrics | None:
        """The headline, and with several sources each of them under `sources`; None when stopped on the way.

        `weights` of all sources, in their order; `max_rows` of each.
        """
        measured: dict[str, Metrics] = {}
        for name, evaluation in self._evaluations.items():
            if evaluation is None:
                continue
            found = evaluation.run(sequence_length=sequence_length, max_rows=max_rows)
            if found is None:
                return None
            measured[name] = {**found.metrics, **found.reported}
        if len(self._evaluations) == 1:
            return next(iter(measured.values()))
        given = dict(zip(self._evaluations, weights, strict=True))
        return with_headline(measured, weights={name: given[name] for name in measured})


def with_headline(measured: Mapping[str, Mapping[str, Any]], *, weights: Mapping[str, float]) -> Metrics:
    """What sources come to together, of every metric that each of them has; under `sources` each, with its share.

    Of floats the weighted mean (of sums that layers report as well), of whole numbers the sum; the perplexity is that
    of the mean loss. The same to the last digit in whatever order the sources come: sums are rounded once, at their
    end.
    """
    total = math.fsum(weights.values())
    shares = {name: weights[name] / total for name in measured}
    first, *others = measured.values()
    fields = [field for field in first if all(field in metrics for metrics in others)]
    found = {field: _together([(shares[name], each[field]) for name, each in measured.items()]) for field in fields}
    if metric_names.PERPLEXITY in found:
        found[metric_names.PERPLEXITY] = perplexity(found[metric_names.LOSS])
    sources = {name: {metric_names.WEIGHT: shares[name], **metrics} for name, metrics in measured.items()}
    return {**found, metric_names.SOURCES: sources}


def _together(weighted: Sequence[tuple[float, float | int]]) -> float | int:
    if all(isinstance(value, int) for _, value in weighted):
        return sum(int(value) for _, value in weighted)
    return math.fsum(share * value for share, value in weighted if share)
