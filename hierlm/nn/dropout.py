"""Dropout whose rate a phase may change.

It acts only where activations are whole (the embedding and what a sublayer adds to the residual), never inside heads
or the feed-forward's hidden units: there a tensor-parallel rank holds a slice and would need a generator of its own.
"""

from torch import nn

from hierlm.models.contract import StepContext


def take_dropout(layer: nn.Module, context: StepContext) -> None:
    """Set every dropout below `layer` to the phase's `dropout`, if it names one."""
    rate = context.switches.get("dropout")
    if rate is None:
        return
    for module in layer.modules():
        if isinstance(module, nn.Dropout):
            module.p = float(rate)  # type: ignore[arg-type]
