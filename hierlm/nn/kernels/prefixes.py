"""Who sees whom where every query sees the first so many keys: three numbers, which every kernel can be told.

Shapes: Q queries, S keys.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Prefixes(NamedTuple):
    """Query i sees the first ((first + i) // run + 1) * rise keys."""

    first: int
    run: int  # queries that see the same
    rise: int  # keys that the next of them see more

    def num_visible(self, query: int) -> int:
        """At least `rise`."""
        return ((self.first + query) // self.run + 1) * self.rise


def visible_keys(
    sees: Prefixes, num_queries: int, num_keys: int, *, window: int | None = None, device: torch.device
) -> Tensor:
    """bool [Q, S], True = visible; of what a query sees only the newest `window` keys."""
    steps = torch.arange(sees.first, sees.first + num_queries, device=device)[:, None] // sees.run
    ends, keys = (steps + 1) * sees.rise, torch.arange(num_keys, device=device)
    visible = keys < ends
    return visible if window is None else visible & (keys >= ends - window)
