"""The LSTM baseline: its state goes on where it stopped."""

import torch

from hierlm import models


@torch.no_grad()
def test_segments_with_state_are_one_long_row():
    part = {"arch": "lstm", "vocab_size": 50, "num_layers": 2, "hidden_dim": 8}
    model = models.from_config({"model": part}).double().eval()
    text = torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(2))
    state, parts = None, []
    for piece in text.split([1, 6, 13], dim=1):
        logits, state = model(piece, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), model(text)[0], rtol=0, atol=1e-12)
