"""What an architecture says of the inputs it reads beside the tokens. Torch-free, as model files are at their top."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class InputSpec:
    """One named input of the batch: an entry of a model file's `INPUTS`.

    Of B rows of T tokens it is [B, T] or [B], with a `width` W [B, T, W] or [B, W].
    """

    per: Literal["token", "row"]
    dtype: Literal["int64", "float32", "bool"] = "int64"
    width: int | None = None
    neutral: float = 0  # what it holds where nothing is known: rehearsals, proofs, padding
    rule: "Callable[[Tensor], Tensor] | None" = None
    """tokens int64 [B, T] -> the input, where nobody hands it over. What it makes of a token may depend on that token
    and those before it only, for it makes the inputs of generated text too."""
