"""`hierlm generate`: continue a text."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.loader import open_split
from hierlm.errors import UserError
from hierlm.inference.load_run import LoadedRun, load_run
from hierlm.models.assembly import is_recurrent
from hierlm.models.decoding import Decoder


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
    """Tokens drawn one after another; each costs one position, not the whole text.

    A model without recurrent memory sees at most the `sequence_length` it was trained on: when the text outgrows that,
    it is read again from half of it back.
    """
    generator = torch.Generator().manual_seed(seed)
    window = None if is_recurrent(loaded.config.model) else loaded.phase.sequence_length
    tokens = tokens if window is None else tokens[-window:]
    decoder, new = Decoder(loaded.model), tokens
    for _ in range(max_tokens):
        logits = decoder.extend(new[None].to(loaded.device))
        token = _draw(logits[0, -1].float().cpu(), temperature=temperature, generator=generator)
        yield token
        new = torch.tensor([token])
        tokens = torch.cat([tokens, new])
        if window is not None and len(tokens) > window:
            tokens = tokens[-max(window // 2, 1) :]
            decoder, new = Decoder(loaded.model), tokens


def _draw(logits: Tensor, *, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / temperature, dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))
