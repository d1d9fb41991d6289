"""Where a sublayer's norm stands: x + f(N x), N(x + f(x)), or x + N(f(x)) (OLMo 2, 2501.00656, section 2.1)."""

from torch import Tensor, nn

from hierlm.nn.shape import Order


def entering(x: Tensor, norm: nn.Module, order: Order) -> Tensor:
    """What the sublayer reads of the stream [B, T, D]."""
    normed: Tensor = norm(x) if order == "pre" else x
    return normed


def leaving(x: Tensor, added: Tensor, norm: nn.Module, order: Order) -> Tensor:
    """The stream behind the sublayer that adds `added`, dropout included."""
    if order == "pre":
        return x + added
    normed: Tensor = norm(x + added) if order == "post" else x + norm(added)
    return normed
