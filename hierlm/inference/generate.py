"""`hierlm generate`: continue a text."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.loader import open_split
from hierlm.errors import UserError
from hierlm.inference.load_run import LoadedRun, load_run


def generate_text(
    path: Path, *, prompt: str, max_tokens: int, temperature: float, seed: int, checkpoint: int | None
) -> Iterator[bytes]:
    """The continuation, piece by piece, without the prompt; temperature 0 takes the likeliest token.

    UserError when the prompt is empty: there is nothing to predict from.
    """
    loaded = load_run(path, checkpoint=checkpoint)
    tokenizer = open_split(loaded.config.data.weighted_sources[0].path, "train").tokenizer()
    tokens = torch.from_numpy(tokenizer.encode(prompt.encode("utf-8", "surrogateescape")).astype("int64"))
    if not len(tokens):
        raise UserError("--prompt: is empty; give at least one character to continue from")
    shown = len(tokenizer.decode(tokens.tolist()))
    known = tokens.tolist()
    for token in sample(loaded, tokens, max_tokens=max_tokens, temperature=temperature, seed=seed):
        known.append(token)
        text = tokenizer.decode(known)
        yield text[shown:]
        shown = len(text)


@torch.no_grad()
def sample(loaded: LoadedRun, tokens: Tensor, *, max_tokens: int, temperature: float, seed: int) -> Iterator[int]:
    """Tokens drawn one after another from the model's distribution over the last `sequence_length` tokens."""
    generator = torch.Generator().manual_seed(seed)
    window = loaded.phase.sequence_length
    for _ in range(max_tokens):
        logits, _ = loaded.model(tokens[None, -window:].to(loaded.device))
        token = _draw(logits[0, -1].float().cpu(), temperature=temperature, generator=generator)
        tokens = torch.cat([tokens, torch.tensor([token])])
        yield token


def _draw(logits: Tensor, *, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / temperature, dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))
