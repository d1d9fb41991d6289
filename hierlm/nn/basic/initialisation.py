"""First weights, by scheme, and smaller for what writes into the residual stream.

    normal   N(0, 0.02); with the scaling by 1/sqrt(number of residual writes) that of GPT-2 (Radford et al. 2019, 2.3)
    llama    N(0, 0.02), embeddings N(0, 1), the output projection D^-1/2 (torchtitan's Llama 3)
    fan_in   truncated at three sigma, sigma = (width in)^-1/2, embeddings N(0, 1)

Whoever builds a tied embedding asks for D^-1/2, which is the output projection's.
"""

from torch import nn

from hierlm.nn.shape import Scheme

INIT_STD = 0.02
RESIDUAL_OUTPUTS = frozenset({"output", "contract"})
_CUT = 3.0  # sigmas


def initialise(
    layer: nn.Module, *, residual_scale: float = 1.0, std: float = INIT_STD, scheme: Scheme = "normal"
) -> None:
    """Draw every Linear and Embedding below `layer` from the current generator; biases become 0.

    `std` is that of embeddings in every scheme, and in all but `fan_in` that of linear maps.
    """
    for path, module in layer.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            is_residual = path.rpartition(".")[2] in RESIDUAL_OUTPUTS
            _draw(module, std=std, scale=residual_scale if is_residual else 1.0, scheme=scheme)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def _draw(module: nn.Linear | nn.Embedding, *, std: float, scale: float, scheme: Scheme) -> None:
    # a map of the single number 1 is a vector by another name, of which no sum is made
    if scheme == "fan_in" and isinstance(module, nn.Linear) and module.in_features > 1:
        sigma = module.in_features**-0.5 * scale
        nn.init.trunc_normal_(module.weight, std=sigma, a=-_CUT * sigma, b=_CUT * sigma)
    else:
        nn.init.normal_(module.weight, std=std * scale)
