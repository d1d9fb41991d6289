"""loss, perplexity and bits per byte of a run's checkpoint on a split"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from launcher.options import JsonOption, PluginOption
from launcher.verb import json_on_stdout

EXAMPLE = "hierlm eval runs/demo-hourglass --split test --stride 64 --per-position"


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="directory or name of a run")],
    split: Annotated[str, typer.Option(help="split of the run's dataset")] = "valid",
    checkpoint: Annotated[int | None, typer.Option(metavar="STEP", help="default: the newest good one")] = None,
    sequence_length: Annotated[
        int | None, typer.Option(min=1, help="tokens read together; default: as in the checkpoint's phase")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(help="slide windows by so many tokens: more context, more work; default: the sequence length"),
    ] = None,
    memory_length: Annotated[
        int | None, typer.Option(min=0, help="tokens remembered, for models that remember segments")
    ] = None,
    same_length: Annotated[
        bool, typer.Option("--same-length", help="every token sees as many keys (Transformer-XL)")
    ] = False,
    per_position: Annotated[bool, typer.Option("--per-position", help="the mean loss by position in the row")] = False,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score every token of a split once. Recurrent models carry their memory along it.

    Of several data sources each has a line; the last line is their mean, weighted as in the checkpoint's phase.
    """
    with json_on_stdout(as_json) as print_document:
        from data_pipeline.read.split import lossy_note
        from hierlm.inference.evaluate import Reading, evaluate_run, headline
        from hierlm.inference.remembering import Remembering
        from launcher.progress import stderr_progress
        from launcher.runs.view import find_run

        path = find_run(run).path
        reading = Reading(sequence_length, stride, Remembering(memory_length, same_length))
        with stderr_progress(f"evaluating {path} on {split}") as progress:
            records = evaluate_run(path, split=split, checkpoint=checkpoint, progress=progress, reading=reading)
        curves = [record.pop("loss_by_position") for record in records]
        mean = headline(records) if len(records) > 1 else None
        if as_json:
            for place, curve in enumerate(curves if per_position else ()):
                (mean["sources"] if mean else records)[place]["loss_by_position"] = curve
            print_document(mean or records[0])
            return
        for record, curve in zip(records, curves, strict=True):
            print(_line(record, of=record["data"]))
            if "lossy" in record:
                print(lossy_note(record["data"]))
            if per_position and curve is not None:
                print("\n".join(_table(curve)))
        if "left_out" in records[0]:
            print(f"{', '.join(records[0]['left_out'])}: no split {split}, left out")
        if mean:
            shares = " + ".join(f"{source['weight']:.3g} {source['name']}" for source in mean["sources"])
            print(_line(mean, of=f"{shares} (weights of phase {mean['phase']})"))


_ELSEWHERE = ("lossy", "words", "word_perplexity", "sequence_length", "stride")
"""Numbers of a record that are no metrics of the objective, or are shown by name."""


def _line(record: dict[str, Any], *, of: str) -> str:
    from hierlm.report.formats import bits, reported

    words = record.get("word_perplexity")
    parts = [
        f"{of} {record['split']}",
        f"step {record['step']}",
        f"loss {record['loss']:.4f} nats/token",
        *([f"perplexity {record['perplexity']:.4g}"] if "perplexity" in record else []),
        *bits(record),
        *([f"word perplexity {words:.4g}"] if words is not None else []),
        *reported({name: value for name, value in record.items() if name not in _ELSEWHERE}),
        f"{record['tokens']:,} tokens",
    ]
    return " | ".join(parts)


def _table(curve: Sequence[float | None]) -> Iterator[str]:
    """Mean loss of positions 0, 1, 2-3, 4-7, 8-15, ... of the rows; those that are context only are left out."""
    yield f"{'position':>15}  nats/token"
    start, stop = 0, 1
    while start < len(curve):
        known = [loss for loss in curve[start:stop] if loss is not None]
        last = min(stop, len(curve)) - 1
        name = str(start) if last == start else f"{start}-{last}"
        if known:
            yield f"{name:>15}  {sum(known) / len(known):.4f}"
        start, stop = stop, 2 * stop
