"""Heads of keys and values where there are fewer of them than tensor-parallel ranks (grouped-query attention).

Every rank holds all of them, the same numbers, and makes the one that its own query heads look at. Of their gradients a
rank sees what its queries say, so those are summed over the ranks; so is what goes back to the block's input, together
with what the queries' slices send there (`hierlm.parallel.column_inputs`).

Shapes: D hidden_dim, K head_dim, G heads of keys and values in all.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from hierlm.parallel.column_inputs import ColumnInputs
from hierlm.parallel.groups import Groups


class SharedHeads(nn.Module):
    """Whole input [..., D] -> [..., K]: the head of this rank's queries, out of a projection onto G."""

    inputs: ColumnInputs
    beside: Sequence[nn.Module]
    """The column slices that may read the same."""

    def __init__(self, whole: nn.Linear, *, num_heads: int, groups: Groups) -> None:
        super().__init__()
        self.weight, self.bias = whole.weight, whole.bias
        head_dim = whole.out_features // num_heads
        first = groups.tp_rank * num_heads // groups.degrees["tensor"] * head_dim
        self._rows = slice(first, first + head_dim)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias[self._rows]
        weights = [column.weight for column in self.beside]
        return self.inputs.product(x, self.weight[self._rows], bias, beside=weights)
