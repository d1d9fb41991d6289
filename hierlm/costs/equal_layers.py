"""Which layers of a list are made alike, so that one need be looked at in place of many."""

from functools import partial

from hierlm.nn.layer import LayerSpec


def are_equal(a: LayerSpec, b: LayerSpec) -> bool:
    """Whether two layers are made by the same class from equal arguments; where that cannot be told, not."""
    if not (isinstance(a, partial) and isinstance(b, partial)):
        return False
    return bool(a.func is b.func and a.args == b.args and a.keywords == b.keywords)
