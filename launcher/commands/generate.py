"""continue a text with a run's model"""

import codecs
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from launcher.options import JsonOption, PluginOption
from launcher.verb import json_on_stdout

EXAMPLE = 'hierlm generate runs/demo-hourglass --prompt "def main(" --temperature 0.8 --top-p 0.95'


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="directory or name of a run")],
    prompt: Annotated[str, typer.Option(help="text to continue")],
    max_tokens: Annotated[int, typer.Option(min=1, help="tokens to add")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="draw from the K likeliest tokens only")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="draw from the fewest likeliest tokens that make up P (nucleus); after --top-k")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the draws: the same seed gives the same text")] = 0,
    checkpoint: Annotated[int | None, typer.Option(metavar="STEP", help="default: the newest good one")] = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the prompt and its continuation, as it is made."""
    with json_on_stdout(as_json) as print_document:
        from hierlm.inference.generate import generate_text
        from hierlm.inference.sampling import Sampling
        from launcher.runs.view import find_run

        path = find_run(run).path
        sampling = Sampling(temperature, top_k, top_p)
        pieces = generate_text(
            path, prompt=prompt, max_tokens=max_tokens, sampling=sampling, seed=seed, checkpoint=checkpoint
        )
        if as_json:
            print_document({"prompt": prompt, "continuation": b"".join(pieces).decode("utf-8", "replace")})
            return
        _stream(prompt.encode("utf-8", "surrogateescape"), pieces)


def _stream(first: bytes, pieces: Iterable[bytes]) -> None:
    """Whole characters only: a token may end in the middle of one. Bytes that are no UTF-8 go on as they are into a
    file or a pipe; a terminal gets a mark in place of them and of control characters, which it would obey."""
    sys.stdout.flush()
    is_terminal = sys.stdout.isatty()
    decoder = codecs.getincrementaldecoder("utf-8")("replace" if is_terminal else "surrogateescape")
    for position, piece in enumerate(pieces):
        _write(decoder.decode(piece if position else first + piece), is_terminal=is_terminal)
    _write(decoder.decode(b"", final=True) + "\n", is_terminal=is_terminal)


def _write(text: str, *, is_terminal: bool) -> None:
    shown = text.translate(_MARKED) if is_terminal else text
    sys.stdout.buffer.write(shown.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


_MARKED = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "\ufffd")
"""Control characters but tab and line feed."""
