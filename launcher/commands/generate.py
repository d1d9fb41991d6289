"""Continue a text with a run's model."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from launcher.options import JsonOption
from launcher.verb import json_on_stdout

EXAMPLE = 'hierlm generate runs/demo-hourglass --prompt "def main(" --max-tokens 100 --temperature 0.8'


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory")],
    prompt: Annotated[str, typer.Option(help="text to continue")],
    max_tokens: Annotated[int, typer.Option(min=1, help="tokens to add")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token")] = 1.0,
    seed: Annotated[int, typer.Option(help="of the draws: the same seed gives the same text")] = 0,
    checkpoint: Annotated[int | None, typer.Option(metavar="STEP", help="default: the newest good one")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the prompt and its continuation, as it is made."""
    with json_on_stdout(as_json) as print_document:
        from hierlm.inference.generate import generate_text

        pieces = generate_text(
            run, prompt=prompt, max_tokens=max_tokens, temperature=temperature, seed=seed, checkpoint=checkpoint
        )
        if as_json:
            print_document({"prompt": prompt, "continuation": b"".join(pieces).decode("utf-8", "replace")})
            return
        _stream(prompt.encode("utf-8", "surrogateescape"), pieces)


def _stream(first: bytes, pieces: object) -> None:
    sys.stdout.flush()
    for position, piece in enumerate(pieces):  # type: ignore[var-annotated, arg-type]
        sys.stdout.buffer.write(piece if position else first + piece)
        sys.stdout.buffer.flush()
    sys.stdout.buffer.write(b"\n")
