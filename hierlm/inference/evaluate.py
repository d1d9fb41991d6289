"""`hierlm eval`: loss, perplexities, bits per byte and the loss by position of a checkpoint on a split."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_pipeline.check.run import evaluation_problems
from data_pipeline.errors import DataError
from data_pipeline.read.loader import IGNORED_TARGET, Split, open_split
from data_pipeline.read.split import can_be_evaluated
from hierlm import metric_names
from hierlm.bits import perplexity
from hierlm.errors import UserError
from hierlm.inference.load_run import LoadedRun, load_run
from hierlm.inference.remembering import AS_TRAINED, Remembering
from hierlm.inference.windows import CarriedLanes, Passes, SlidingWindows
from hierlm.models.assembly import State
from hierlm.nn.inputs import NO_INPUTS, Inputs, moved
from hierlm.objectives import next_token
from hierlm.objectives.config import DEFAULT_OBJECTIVE
from hierlm.train.evaluation import Evaluation, Score
from hierlm.train.loaded_inputs import wants_documents
from hierlm.train.mixture_evaluation import with_headline

ROWS_PER_PASS = 8  # windows at once, or lanes with a memory of their own


@dataclass(frozen=True)
class Reading:
    """How a split is read; lengths in tokens, None as in training."""

    sequence_length: int | None = None  # None: that of the checkpoint's phase
    stride: int | None = None  # None: the sequence length, windows do not overlap
    remembering: Remembering = AS_TRAINED


AS_IN_TRAINING = Reading()

_COMMON = ("step", "phase", "split", "sequence_length", "stride", "carries_memory", "left_out")
"""What is the same in the records of all sources."""
_OF_ONE_SOURCE = ("data", "name", metric_names.WEIGHT, "words", "word_perplexity", "loss_by_position", "lossy")


def evaluate_run(
    path: Path,
    *,
    split: str,
    checkpoint: int | None,
    progress: Callable[[int, int], None],
    reading: Reading = AS_IN_TRAINING,
) -> list[dict[str, Any]]:
    """One record per data source of a run's checkpoint (None: the newest good one): see `evaluate`."""
    loaded = load_run(path, checkpoint=checkpoint, remembering=reading.remembering)
    return evaluate(loaded, split=split, reading=reading, progress=progress)


def evaluate(
    loaded: LoadedRun, *, split: str, reading: Reading, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[dict[str, Any]]:
    """For each data source: step, phase, split, data, its name and weight in that phase, how it was read, loss,
    perplexity, bits_per_byte, tokens, words and word_perplexity (None where words were not counted), loss_by_position
    (nats; None where nothing is scored). Of another objective than next_token: its metrics, and no loss by position.
    A source without the split is left out, and named in `left_out`. `lossy` where bytes are those that tokens hold.

    UserError when the model cannot be evaluated in this way, DataError when no source of the phase has the split.
    """
    reading_record, records, config = _reading_record(loaded, reading), [], loaded.config
    data, weights = config.data, config.source_weights(loaded.phase)
    paths = [source.path for source in data.weighted_sources]
    problems = evaluation_problems(paths, {loaded.phase.name: weights}, split=split)
    if problems:
        raise DataError(problems)
    there = [can_be_evaluated(path, split) for path in paths]
    if not all(there):
        reading_record["left_out"] = [path for path, has in zip(paths, there, strict=True) if not has]
    for path, name, weight, has in zip(paths, data.source_names, weights, there, strict=True):
        if not has:
            continue
        opened = open_split(path, split)
        place = {"step": loaded.step, "phase": loaded.phase.name, "split": split, "data": path}
        known = {**place, "name": name, metric_names.WEIGHT: weight, **reading_record}
        if opened.index.lossy:
            known["lossy"] = True
        records.append({**known, **_measured(opened, loaded, reading, progress=progress)})
    return records


def headline(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several records of `evaluate` come to: their weighted mean, as training's evaluation has it, and all of
    them under `sources`."""
    weights = {record["name"]: record[metric_names.WEIGHT] for record in records}
    measured = {r["name"]: {k: v for k, v in r.items() if k not in (*_COMMON, *_OF_ONE_SOURCE)} for r in records}
    mean = with_headline(measured, weights=weights)
    shares = {name: each[metric_names.WEIGHT] for name, each in mean[metric_names.SOURCES].items()}
    common = {key: value for key, value in records[0].items() if key in _COMMON}
    sources = [{**record, metric_names.WEIGHT: shares[record["name"]]} for record in records]
    return {**common, **mean, metric_names.SOURCES: sources}


def _measured(
    split: Split, loaded: LoadedRun, reading: Reading, *, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """What the run's objective says of a split; of tokens foretold one after another, the loss by position too."""
    asked, score = loaded.config.objective, Scorer(loaded)
    if asked.name == DEFAULT_OBJECTIVE:
        return _scored(split, _passes(split, loaded, reading), score=score, progress=progress)
    if reading.stride is not None:
        raise UserError(f"--stride: windows overlap for {DEFAULT_OBJECTIVE} only, not for {asked.name}; leave it out")
    evaluation = Evaluation(
        split,
        score=score,
        rows_per_pass=ROWS_PER_PASS,
        is_recurrent=loaded.is_recurrent,
        document_starts=wants_documents(loaded.config.model),
        objective=asked,
        seed=loaded.config.seed,
        progress=progress,
    )
    found = evaluation.run(sequence_length=_sequence_length(loaded, reading), max_rows=None)
    assert found is not None  # nobody stops it
    return {**found.metrics, "loss_by_position": None}


def _scored(split: Split, passes: Passes, *, score: Score, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Everything measured over a whole split."""
    nats = torch.zeros(passes.sequence_length, dtype=torch.float64)
    counts = torch.zeros(passes.sequence_length, dtype=torch.int64)
    for done, one in enumerate(passes, start=1):
        nats += score(one.tokens, one.targets, continues=one.continues, inputs=one.inputs).double().sum(dim=0).cpu()
        counts += (one.targets != IGNORED_TARGET).sum(dim=0)
        progress(done, len(passes))
    total = float(nats.sum())
    by_position = [n / c if c else None for n, c in zip(nats.tolist(), counts.tolist(), strict=True)]
    return {
        **next_token.Totals.metrics(torch.stack([nats.sum(), counts.sum().double()]), split),
        "words": split.num_words,
        "word_perplexity": perplexity(total / split.num_words) if split.num_words else None,
        "loss_by_position": by_position,
    }


def _passes(split: Split, loaded: LoadedRun, reading: Reading) -> Passes:
    length, documents = _sequence_length(loaded, reading), wants_documents(loaded.config.model)
    if loaded.is_recurrent:
        if reading.stride is not None:
            raise UserError(
                f"--stride: {loaded.config.model.arch} carries its memory from segment to segment, so windows cannot "
                "overlap; leave --stride out"
            )
        return CarriedLanes(split, sequence_length=length, num_lanes=ROWS_PER_PASS, document_starts=documents)
    stride = length if reading.stride is None else reading.stride
    if not 1 <= stride <= length:
        raise UserError(f"--stride: given {stride}, allowed 1 to the sequence length {length}")
    return SlidingWindows(
        split, sequence_length=length, stride=stride, windows_per_pass=ROWS_PER_PASS, document_starts=documents
    )


def _sequence_length(loaded: LoadedRun, reading: Reading) -> int:
    return loaded.phase.sequence_length if reading.sequence_length is None else reading.sequence_length


def _reading_record(loaded: LoadedRun, reading: Reading) -> dict[str, Any]:
    """How the split was read: as asked, else as in training."""
    length = _sequence_length(loaded, reading)
    stride = None if loaded.is_recurrent else reading.stride or length
    return {"sequence_length": length, "stride": stride, "carries_memory": loaded.is_recurrent}


class Scorer:
    """The nats of every token; keeps the memory between calls that continue one another."""

    def __init__(self, loaded: LoadedRun) -> None:
        self._model, self._device = loaded.model, loaded.device
        self._state: State | None = None

    @torch.no_grad()
    def __call__(self, tokens: Tensor, targets: Tensor, *, continues: bool, inputs: Inputs = NO_INPUTS) -> Tensor:
        state = self._state if continues else None
        logits, self._state = self._model(tokens.to(self._device), state, **moved(inputs, self._device))
        wanted = targets.to(self._device)
        flat = F.cross_entropy(
            logits.float().flatten(0, 1), wanted.flatten(), reduction="none", ignore_index=IGNORED_TARGET
        )
        return flat.view_as(targets)
