"""What the steps of an attempt are trained on: which rows each of them asks the loader for, read ahead of it."""

from collections.abc import Iterator

from data_pipeline.read.loader import MixtureChange, Request
from data_pipeline.read.prefetch import Prefetcher
from hierlm.objectives import objective
from hierlm.objectives.batch import Batch, Drawn
from hierlm.phases.timeline import Moment
from hierlm.train.foundation import Foundation


def read_ahead(base: Foundation, *, first_step: int) -> Prefetcher[Batch]:
    """This rank's rows of every step from `first_step` on, read ahead."""
    engine, timeline = base.engine, base.timeline

    def requests() -> Iterator[Request]:
        for step in range(first_step, timeline.num_steps):
            moment = timeline.at(step)
            yield request_of(base, moment, rows=engine.local_rows(moment.phase.global_batch_size))

    asked, chosen = objective(base.config.objective.name), base.config.objective

    def read(request: Request) -> Batch:
        batch: Batch = asked.batch(base.rows.rows(request), chosen, seed=base.config.seed)
        return batch

    return Prefetcher(read, requests(), base.config.data.prefetch_batches, device=engine.process.device)


def units_of_step(base: Foundation, loss: float, moment: Moment) -> dict[str, float]:
    """By the bytes of the sources that this step's rows, those of all ranks, were drawn from."""
    request = request_of(base, moment, rows=range(moment.phase.global_batch_size))
    drawn = Drawn(base.rows.tokens_per_byte(request), base.rows.splits[0].kind)
    units: dict[str, float] = objective(base.config.objective.name).units(loss, drawn)
    return units


def request_of(base: Foundation, moment: Moment, *, rows: range) -> Request:
    """Some rows of one step."""
    phase, own_weights = moment.phase, tuple(source.weight for source in base.config.data.weighted_sources)
    lanes = phase.global_batch_size if base.timeline.contiguous_lanes else None
    mixture = tuple(MixtureChange(first, weights or own_weights) for first, weights in moment.data_weights)
    return Request(phase.sequence_length, moment.data_pass, moment.first_sample, rows, lanes, mixture)
