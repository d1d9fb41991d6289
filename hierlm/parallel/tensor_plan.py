"""What an architecture declares of its weights, and which rule a weight falls under. Without torch and megatron-core.

The plan maps regular expressions to rules; one that matches the whole canonical name of a parameter, or of the module
that holds it, decides; the first match counts:

    column      slices the output width of a projection (heads, hidden units); a bare parameter: its first dimension;
                heads of keys and values that are fewer than the ranks: whole on each, gradients summed
    row         slices the input width and sums the results; a bare parameter: its last dimension
    vocabulary  slices an embedding, or the projection onto the vocabulary, padded to a multiple of the degree
    replicate   every rank holds all of it and computes the same gradient
    partial     every rank holds all of it but sees only its slice's part of the gradient, so the parts are summed
"""

import re
from collections.abc import Mapping
from typing import Literal, get_args

Rule = Literal["column", "row", "vocabulary", "replicate", "partial"]
TensorPlan = Mapping[str, Rule]


def rule_for(plan: TensorPlan, name: str) -> Rule:
    """The rule of the parameter called `layers.<index>.<path>`; ValueError when no pattern covers it."""
    holder = name.rpartition(".")[0]
    for pattern, rule in plan.items():
        if re.fullmatch(pattern, name) or re.fullmatch(pattern, holder):
            assert rule in get_args(Rule), f"tensor plan: unknown rule {rule!r} for {pattern!r}"
            return rule
    raise ValueError(f"tensor plan: no pattern covers {name}; allowed rules: {', '.join(get_args(Rule))}")
