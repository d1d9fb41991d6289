"""Token by token: the layer list run on what is new, with what each layer keeps of the text so far."""

import torch
from torch import Tensor

from hierlm.models.assembly import LanguageModel
from hierlm.nn.inputs import (
    NO_INPUTS,
    TOKENS,
    Inputs,
    completed,
    last_tokens,
    split_rows,
    with_tokens,
    without_tokens,
)
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
        self._given: Inputs = NO_INPUTS  # of the text so far, where a rule or a layer without a cache looks back

    @torch.no_grad()
    def extend(self, tokens: Tensor, **inputs: Tensor) -> Tensor:
        """New tokens int64 [B, n] -> their logits [B, n, V], equal to those of one forward pass over the whole text.

        `inputs` as of the model's own call: those of tokens for the new ones, those of rows whole each time. One with
        a rule is handed over each time or never.
        """
        text = self._read(with_tokens(tokens, inputs))
        if not self.is_cached:
            logits, _ = self.model(text[TOKENS], **without_tokens(text))
            return logits[:, -tokens.shape[1] :]
        new = last_tokens(self.model.input_specs, text, tokens.shape[1])
        parts = split_rows(new, 1 if self._alone else len(tokens))
        if not self._caches:
            self._caches = [[None] * len(self.model.layers) for _ in parts]
        return torch.cat([self._advanced(part, caches) for part, caches in zip(parts, self._caches, strict=True)])

    def _read(self, new: Inputs) -> Inputs:
        """The inputs of the whole text: what a rule makes of a token may depend on those before it."""
        specs = self.model.input_specs
        if self.is_cached and not specs:
            return completed(specs, new[TOKENS], without_tokens(new))
        whole = {name: self._continued(name, tensor) for name, tensor in new.items()}
        self._given = whole
        return completed(specs, whole[TOKENS], without_tokens(whole))

    def _continued(self, name: str, new: Tensor) -> Tensor:
        spec = self.model.input_specs.get(name)
        is_of_rows = spec is not None and spec.per == "row"
        return new if is_of_rows or name not in self._given else torch.cat((self._given[name], new), dim=1)

    def _advanced(self, inputs: Inputs, caches: list[Cache | None]) -> Tensor:
        stream = Stream.of(inputs)
        for index, layer in enumerate(self.model.layers):
            stream, caches[index] = layer.decode(stream, caches[index])
        return stream.output
