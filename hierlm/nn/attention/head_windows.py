"""Heads that look back over windows of different lengths (multi-scale self-attention, 1912.00544).

Shapes: B batch, T queries, S keys, D hidden_dim, H heads, K head_dim.
"""

from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn

from hierlm.nn.attention.multi_head import Attention, KeyValues
from hierlm.nn.attention.visibility import Causal
from hierlm.nn.shape import BlockShape

HeadWindows = tuple[tuple[int | None, int], ...]
"""(window in positions, the query's own included, or None for all of the past; how many heads have it)."""


class SeenByWindow(NamedTuple):
    """What the heads of each window look at."""

    parts: tuple[KeyValues, ...]

    @property
    def num_keys(self) -> int:
        """S."""
        return self.parts[0].num_keys


class WindowedAttention(nn.Module):
    """Heads of one window are an attention of their own, so that any number of them can be cut by tensor parallelism.

    The output projections of the parts add up to that of all heads together; only the first has a bias.
    """

    def __init__(self, shape: BlockShape, head_windows: HeadWindows) -> None:
        super().__init__()
        self.windows = tuple(window for window, _ in head_windows)
        self.scales = nn.ModuleList(
            Attention(shape, num_heads=num_heads, output_bias=index == 0)
            for index, (_, num_heads) in enumerate(head_windows)
        )

    def key_values(self, x: Tensor, positions: Tensor, *, past: SeenByWindow | None = None) -> SeenByWindow:
        """x [B, S, D] at positions [S], appended to `past`."""
        before = (None,) * len(self.windows) if past is None else past.parts
        return SeenByWindow(
            tuple(part.key_values(x, positions, past=old) for part, old in zip(self.scales, before, strict=True))
        )

    def forward(self, x: Tensor, positions: Tensor, *, seen: SeenByWindow, rule: Causal, stride: int = 1) -> Tensor:
        """Queries x [B, T, D] look at `seen`, each head as far back as its window -> [B, T, D]."""
        outputs = [
            part(x, positions, seen=keys, rule=replace(rule, window=window), stride=stride)
            for part, keys, window in zip(self.scales, seen.parts, self.windows, strict=True)
        ]
        return sum(outputs[1:], start=outputs[0])
