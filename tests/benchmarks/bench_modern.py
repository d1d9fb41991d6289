"""The block of `preset: modern` beside the same written by hand in plain PyTorch, both passes.

    python -m tests.benchmarks.bench_modern

Both run in turn in one process, on one thread, and the median over the rounds counts; time is processor time. The exit
code is 1 where a claim is missed.
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierlm.nn.attention.positions import rotate, token_positions
from hierlm.nn.shape import Rotary
from hierlm.train.cpu_memory import keep_freed_blocks
from tests.benchmarks.ratio import VOCAB, Claim, both_passes, built, times_faster

WIDTH, HEADS, LAYERS, LENGTH, HIDDEN = 512, 8, 4, 512, 1408
MODERN = {
    "arch": "transformer",
    "preset": "modern",
    "vocab_size": VOCAB,
    "hidden_dim": WIDTH,
    "num_heads": HEADS,
    "num_layers": LAYERS,
}
ROTARY = Rotary(base=500_000.0)
EPSILON = 1e-6


class PlainBlock(nn.Module):
    """Pre-RMSNorm, norms of heads, rotation, SwiGLU; no biases; one product for queries, keys and values."""

    def __init__(self, kv_heads: int) -> None:
        super().__init__()
        head_dim = WIDTH // HEADS
        self.widths = (WIDTH, kv_heads * head_dim, kv_heads * head_dim)
        self.norm, self.ffn_norm = nn.RMSNorm(WIDTH, EPSILON), nn.RMSNorm(WIDTH, EPSILON)
        self.query_norm, self.key_norm = nn.RMSNorm(head_dim, EPSILON), nn.RMSNorm(head_dim, EPSILON)
        self.qkv = nn.Linear(WIDTH, sum(self.widths), bias=False)
        self.output = nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate, self.expand = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(WIDTH, HIDDEN, bias=False)
        self.contract = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        q, k, v = (p.unflatten(-1, (-1, WIDTH // HEADS)) for p in self.qkv(self.norm(x)).split(self.widths, dim=-1))
        q, k, v = self.query_norm(q).transpose(1, 2), self.key_norm(k).transpose(1, 2), v.transpose(1, 2)
        q, k = (rotate(heads, positions, rotary=ROTARY) for heads in (q, k))
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        x = x + self.output(heads.transpose(1, 2).flatten(2))
        normed = self.ffn_norm(x)
        return x + self.contract(F.silu(self.gate(normed)) * self.expand(normed))


class Plain(nn.Module):
    """Embedding, blocks, norm, output."""

    def __init__(self, kv_heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(PlainBlock(kv_heads) for _ in range(LAYERS))
        self.norm, self.head = nn.RMSNorm(WIDTH, EPSILON), nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x, positions = self.tokens(tokens), token_positions(tokens.shape[1], device=tokens.device)
        for block in self.blocks:
            x = block(x, positions)
        logits: Tensor = self.head(self.norm(x))
        return logits


def claim(kv_heads: int) -> Claim:
    """How many times faster ours is."""
    ours, plain = built({**MODERN, "num_kv_heads": kv_heads}).train(), Plain(kv_heads)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in plain.parameters())
    found = times_faster(both_passes(ours, length=LENGTH), both_passes(plain, length=LENGTH))
    return Claim(
        f"preset modern, D={WIDTH}, T={LENGTH}, {kv_heads} of {HEADS} kv heads, over plain PyTorch", found, 0.95
    )


def main() -> None:
    """Print the claims."""
    torch.set_num_threads(1)
    keep_freed_blocks()
    claims = [claim(kv_heads) for kv_heads in (HEADS, 2)]
    print(*[each.line() for each in claims], sep="\n")
    sys.exit(int(not all(each.holds for each in claims)))


if __name__ == "__main__":
    main()
