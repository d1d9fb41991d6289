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

_MEANS = (metric_names.LOSS, metric_names.BITS_PER_BYTE, metric_names.BITS_PER_DIMENSION)


class MixtureEvaluation:
    """One evaluation per source, by name; None for a source without the split."""

    def __init__(self, evaluations: Mapping[str, Evaluation | None]) -> None:
        self._evaluations = dict(evaluations)

    def run(self, *, weights: Sequence[float], sequence_length: int, max_rows: int | None) -> Metrics | None:
        """The headline, and with several sources each of them under `sources`; None when stopped on the way.

        `weights` of all sources, in their order; `max_rows` of each.
        """
        measured: dict[str, Metrics] = {}
        reported: set[str] = set()
        for name, evaluation in self._evaluations.items():
            if evaluation is None:
                continue
            found = evaluation.run(sequence_length=sequence_length, max_rows=max_rows)
            if found is None:
                return None
            measured[name] = {**found.metrics, **found.reported}
            reported |= found.reported.keys()
        if len(self._evaluations) == 1:
            return next(iter(measured.values()))
        given = dict(zip(self._evaluations, weights, strict=True))
        return with_headline(measured, weights={name: given[name] for name in measured}, reported=sorted(reported))


def with_headline(
    measured: Mapping[str, Mapping[str, Any]], *, weights: Mapping[str, float], reported: Sequence[str] = ()
) -> Metrics:
    """The weighted mean of the sources' losses and bits, its perplexity, all tokens; under `sources` each, with its
    share of the weights. Of what layers report, `reported` by name, the mean is taken too, of their sums as well.

    The same to the last digit in whatever order the sources come: sums are rounded once, at their end.
    """
    total = math.fsum(weights.values())
    shares = {name: weights[name] / total for name in measured}
    fields = [field for field in (*_MEANS, *reported) if all(field in metrics for metrics in measured.values())]
    means = {field: _mean([(shares[name], metrics[field]) for name, metrics in measured.items()]) for field in fields}
    loss = means.pop(metric_names.LOSS)
    return {
        metric_names.LOSS: loss,
        metric_names.PERPLEXITY: perplexity(loss),
        **means,
        metric_names.TOKENS: sum(metrics[metric_names.TOKENS] for metrics in measured.values()),
        metric_names.SOURCES: {
            name: {metric_names.WEIGHT: shares[name], **metrics} for name, metrics in measured.items()
        },
    }


def _mean(weighted: Sequence[tuple[float, float]]) -> float:
    return math.fsum(share * value for share, value in weighted if share)
