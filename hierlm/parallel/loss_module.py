"""What DeepSpeed wraps when there is one stage: all layers, ending in the loss of every token."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hierlm.models.contract import Layer, Stream
from hierlm.parallel.loss import token_losses
from hierlm.parallel.recompute import DrawKey, Memories, Recompute, run_layers
from hierlm.parallel.tensor import logits_are_sliced


class LossModule(nn.Module):
    """Parameters keep their canonical names `layers.<index>.<name>`."""

    def __init__(self, layers: Mapping[int, Layer], *, recompute: Recompute) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(index): layer for index, layer in layers.items()})
        self.local_layers = dict(layers)
        self.recompute = recompute
        self._are_sliced = logits_are_sliced(layers)

    def forward(
        self, tokens: Tensor, targets: Tensor, memories: Memories, draw_key: DrawKey | None
    ) -> tuple[Tensor, Memories]:
        """tokens, targets int64 [B, T] -> (nats fp32 [B, T], 0 where the target is negative; updated memories).

        In training the nats include what the model asks to be added to them (the loss of predicted boundaries).
        """
        stream, updated = run_layers(
            self.local_layers, Stream((tokens,)), memories, draw_key=draw_key, recompute=self.recompute
        )
        detached = tuple(None if m is None else tuple(t.detach() for t in m) for m in updated)
        nats = token_losses(stream.hidden, targets, are_sliced=self._are_sliced)
        penalty = stream.penalty
        return (nats if penalty is None else nats + torch.where(targets >= 0, penalty, 0.0)), detached
