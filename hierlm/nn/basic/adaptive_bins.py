"""How a vocabulary sorted by frequency is cut into bins of falling width. Torch-free."""

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Bin:
    """Tokens first .. end-1 have vectors of `width` numbers."""

    first: int
    end: int
    width: int

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.end - self.first


def frequency_bins(*, vocab_size: int, cutoffs: tuple[int, ...], hidden_dim: int, div_value: int) -> tuple[Bin, ...]:
    """Bin b ends at cut-off b (the last one at `vocab_size`) and has width D // div_value^b."""
    edges = pairwise((0, *cutoffs, vocab_size))
    return tuple(Bin(first, end, hidden_dim // div_value**index) for index, (first, end) in enumerate(edges))


def num_embedding_parameters(bins: tuple[Bin, ...], *, hidden_dim: int, is_projected: bool) -> int:
    """Tables, and a projection to D for each of them where there is one."""
    return sum(b.width * (b.size + (hidden_dim if is_projected else 0)) for b in bins)
