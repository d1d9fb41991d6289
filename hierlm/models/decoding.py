"""Token by token: the layer list run on what is new, with what each layer keeps of the text so far."""

import torch
from torch import Tensor

from hierlm.models.assembly import LanguageModel
from hierlm.nn.layer import Cache, Layer
from hierlm.nn.stream import Stream


class Decoder:
    """One batch of growing texts; levels above the tokens advance only when a group of theirs completes.

    A model with a layer that keeps no cache is run over the whole text each time: the same logits at full cost.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.is_cached = all(type(layer).decode is not Layer.decode for layer in model.layers)
        self._alone = any(getattr(layer, "decodes_rows_alone", False) for layer in model.layers)
        self._caches: list[list[Cache | None]] = []
        self._text: Tensor | None = None

    @torch.no_grad()
    def extend(self, tokens: Tensor) -> Tensor:
        """New tokens int64 [B, n] -> their logits [B, n, V], equal to those of one forward pass over the whole text."""
        if not self.is_cached:
            self._text = tokens if self._text is None else torch.cat((self._text, tokens), dim=1)
            logits, _ = self.model(self._text)
            return logits[:, -tokens.shape[1] :]
        parts = tokens.split(1) if self._alone else (tokens,)
        if not self._caches:
            self._caches = [[None] * len(self.model.layers) for _ in parts]
        return torch.cat([self._advanced(part, caches) for part, caches in zip(parts, self._caches, strict=True)])

    def _advanced(self, tokens: Tensor, caches: list[Cache | None]) -> Tensor:
        stream = Stream((tokens,))
        for index, layer in enumerate(self.model.layers):
            stream, caches[index] = layer.decode(stream, caches[index])
        return stream.hidden
