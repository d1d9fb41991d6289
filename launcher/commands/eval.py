"""Loss, perplexity and bits per byte of a run's checkpoint on a split."""

from pathlib import Path
from typing import Annotated

import typer

from launcher.options import JsonOption
from launcher.verb import json_on_stdout

EXAMPLE = "hierlm eval runs/demo-hourglass --split test"


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory")],
    split: Annotated[str, typer.Option(help="split of the run's dataset")] = "valid",
    checkpoint: Annotated[int | None, typer.Option(metavar="STEP", help="default: the newest good one")] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a whole split; one line per data source."""
    with json_on_stdout(as_json) as print_document:
        from hierlm.inference.evaluate import evaluate_run
        from launcher.progress import stderr_progress

        with stderr_progress(f"evaluating {run} on {split}") as progress:
            records = evaluate_run(run, split=split, checkpoint=checkpoint, progress=progress)
        if as_json:
            print_document(records[0] if len(records) == 1 else records)
        else:
            for record in records:
                print(_line(record))


def _line(record: dict[str, object]) -> str:
    return (
        f"{record['data']} {record['split']} | step {record['step']} | loss {record['loss']:.4f} nats/token | "
        f"perplexity {record['perplexity']:.4g} | bits/byte {record['bits_per_byte']:.4f} | {record['tokens']:,} tokens"
    )
