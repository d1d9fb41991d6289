"""How the next token is drawn: temperature, then the k likeliest, then the nucleus of those."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hierlm.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """`top_p` is the nucleus of Holtzman et al. ("The Curious Case of Neural Text Degeneration", 1904.09751, eq. 2):
    the fewest tokens, likeliest first, whose probabilities reach p."""

    temperature: float = 1.0  # 0 takes the likeliest token
    top_k: int | None = None
    top_p: float | None = None

    def refuse_out_of_bounds(self, *, vocab_size: int) -> None:
        """UserError with every bound that is not kept."""
        problems = []
        if not 0 <= self.temperature < float("inf"):
            problems.append(f"--temperature: given {self.temperature}, allowed 0 and above")
        if self.top_k is not None and not 1 <= self.top_k <= vocab_size:
            problems.append(f"--top-k: given {self.top_k}, allowed 1 to {vocab_size}, the size of the vocabulary")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            problems.append(f"--top-p: given {self.top_p}, allowed above 0 and up to 1")
        if problems:
            raise UserError(problems)

    def draw(self, logits: Tensor, *, generator: torch.Generator) -> int:
        """One token from logits fp32 [V]."""
        if self.temperature == 0:
            return int(logits.argmax())
        return int(torch.multinomial(self.probabilities(logits), 1, generator=generator))

    def probabilities(self, logits: Tensor) -> Tensor:
        """What is drawn from, [V]: sums to 1, 0 for tokens left out."""
        likeliest, tokens = (logits / self.temperature).sort(descending=True, stable=True)
        kept = torch.softmax(likeliest[: self.top_k], dim=-1)
        if self.top_p is not None:
            before = kept.cumsum(dim=-1) - kept
            kept = kept.masked_fill(before >= self.top_p, 0.0)
            kept = kept / kept.sum()
        return torch.zeros_like(logits).scatter(0, tokens[: len(kept)], kept)
