"""Cross entropy, from whole logits or from logits whose vocabulary is sliced over tensor-parallel ranks.

Shapes: B rows, T tokens, V vocab_size, V' a slice of the vocabulary (padding included).
"""

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from torch import Tensor


def token_losses(logits: Tensor, targets: Tensor, *, are_sliced: bool = False) -> Tensor:
    """Nats of every token, fp32 [B, T], 0 where the target is negative.

    logits [B, T, V], or this rank's [B, T, V'] when `are_sliced`; targets int64 [B, T]. The mean over tokens is the
    loss. Sliced logits are overwritten: nothing else may read them afterwards.
    """
    is_real = targets >= 0
    safe = targets.clamp(min=0)
    if are_sliced:
        nats = vocab_parallel_cross_entropy(logits.float(), safe)
    else:
        nats = F.cross_entropy(logits.float().flatten(0, 1), safe.flatten(), reduction="none").view_as(targets)
    return torch.where(is_real, nats, 0.0)
