"""What DeepSpeed wraps when there is one stage: all layers, ending in the loss of every token."""

from collections.abc import Mapping

from torch import Tensor, nn

from hierlm.nn.draws import DrawKey
from hierlm.nn.inputs import Inputs
from hierlm.nn.layer import Layer, StepContext
from hierlm.nn.report import Report
from hierlm.nn.stream import Stream
from hierlm.parallel.loss import LossEnd
from hierlm.parallel.recompute import Memories, Recompute, run_layers
from hierlm.parallel.sequence import TokenShares
from hierlm.parallel.weighting import ALIKE, Counting


class LossModule(nn.Module):
    """Parameters keep their canonical names `layers.<index>.<name>`."""

    def __init__(
        self,
        layers: Mapping[int, Layer],
        *,
        recompute: Recompute,
        shares: TokenShares | None = None,
        loss_chunk_tokens: int | None = None,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(index): layer for index, layer in layers.items()})
        self.local_layers = dict(layers)
        if shares is not None:
            shares.take(layers)
        self.recompute, self.shares = recompute, shares
        self._end = LossEnd(self.local_layers, chunk_tokens=loss_chunk_tokens, z_loss=z_loss)

    def begin_step(self, context: StepContext) -> None:
        """Every layer takes the switches and draws of a step."""
        for layer in self.local_layers.values():
            layer.begin_step(context)

    def forward(
        self,
        inputs: Inputs,
        targets: Tensor,
        memories: Memories,
        draw_key: DrawKey | None,
        counting: Counting = ALIKE,
    ) -> tuple[Tensor, Memories, tuple[Report, ...]]:
        """Tokens and what else the batch says, targets int64 [B, T] -> (nats fp32 [B, T], 0 where the target is
        negative; updated memories; what layers and the loss report).

        `counting`: of the targets, in the loss on logits; that of the objective is made of the nats.
        """
        stream, updated = run_layers(
            self._end.layers,
            Stream.of(inputs),
            memories[: len(self._end.layers)],
            draw_key=draw_key,
            recompute=self.recompute,
            shares=self.shares,
        )
        detached = tuple(None if m is None else tuple(t.detach() for t in m) for m in updated)
        detached += memories[len(detached) :]
        nats, reports = self._end.losses(stream.output, targets, counting=counting)
        return nats, detached, (*stream.reports, *reports)
