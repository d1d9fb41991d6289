"""`hierlm generate`: continue a text."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.read.loader import open_split
from hierlm.errors import UserError
from hierlm.inference.load_run import LoadedRun, load_run
from hierlm.inference.sampling import Sampling
from hierlm.models.decoding import Decoder
from hierlm.objectives import objective


def generate_text(
    path: Path, *, prompt: str, max_tokens: int, sampling: Sampling, seed: int, checkpoint: int | None
) -> Iterator[bytes]:
    """The continuation without the prompt, the bytes of one token after another: a character may need several.

    UserError when the prompt is empty (there is nothing to predict from), a bound of `sampling` is not kept
    or the run was trained on images.
    """
    loaded = load_run(path, checkpoint=checkpoint)
    if objective(loaded.config.objective.name).SEES != "past":
        name = loaded.config.objective.name
        raise UserError(f"{path}: trained for {name}, which sees what comes behind; `hierlm generate` needs next_token")
    split = open_split(loaded.config.data.weighted_sources[0].path, "train")
    if split.kind == "images":
        raise UserError(f"{path}: its data {split.directory} is images; `hierlm generate` continues text only")
    tokenizer = split.tokenizer()
    tokens = torch.from_numpy(tokenizer.encode(prompt.encode("utf-8", "surrogateescape")).astype("int64"))
    if not len(tokens):
        raise UserError("--prompt: is empty; give at least one character to continue from")
    sampling.refuse_out_of_bounds(vocab_size=tokenizer.vocab_size)
    for token in sample(loaded, tokens, max_tokens=max_tokens, sampling=sampling, seed=seed):
        yield tokenizer.decode([token])  # tokens decode one by one: text is never normalised


@torch.no_grad()
def sample(loaded: LoadedRun, tokens: Tensor, *, max_tokens: int, sampling: Sampling, seed: int) -> Iterator[int]:
    """Tokens drawn one after another; each costs one position, not the whole text.

    A model without recurrent memory sees at most the `sequence_length` it was trained on: when the text outgrows that,
    it is read again from half of it back.
    """
    generator = torch.Generator().manual_seed(seed)
    window = None if loaded.is_recurrent else loaded.phase.sequence_length
    tokens = tokens if window is None else tokens[-window:]
    decoder, new = Decoder(loaded.model), tokens
    for _ in range(max_tokens):
        logits = decoder.extend(new[None].to(loaded.device))
        token = sampling.draw(logits[0, -1].float().cpu(), generator=generator)
        yield token
        new = torch.tensor([token])
        tokens = torch.cat([tokens, new])
        if window is not None and len(tokens) > window:
            tokens = tokens[-max(window // 2, 1) :]
            decoder, new = Decoder(loaded.model), tokens
