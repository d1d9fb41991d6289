"""First weights: N(0, 0.02), and smaller for what writes into the residual stream.

The scaling by 1/sqrt(number of residual writes) is that of GPT-2 (Radford et al., 2019, section 2.3).
"""

from torch import nn

INIT_STD = 0.02
RESIDUAL_OUTPUTS = frozenset({"output", "contract"})


def initialise(layer: nn.Module, *, residual_scale: float = 1.0, std: float = INIT_STD) -> None:
    """Draw every Linear and Embedding below `layer` from the current generator; biases become 0."""
    for path, module in layer.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            is_residual = path.rpartition(".")[2] in RESIDUAL_OUTPUTS
            nn.init.normal_(module.weight, std=std * (residual_scale if is_residual else 1.0))
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
