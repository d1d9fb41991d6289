"""Thirty layers of which nine on tokens keep less for the backward pass than fourteen plain ones (2005.00581)."""

from pathlib import Path

import pytest
import torch

from hierlm import models
from hierlm.config.load import load_config
from hierlm.models.assembly import LanguageModel
from hierlm.models.contract import Stream, fold

PAPERS = Path(__file__).parents[2] / "configs" / "papers" / "multi_scale"
LENGTH, BATCH = 512, 2
NARROW = ["model.hidden_dim=256", "model.ffn_dim=1024", "model.num_heads=4", "model.dropout=0"]


def kept_bytes(name: str) -> int:
    """Bytes that a forward pass keeps for the backward pass, weights not counted: its peak at the loss."""
    config = load_config(PAPERS / f"{name}.yaml", NARROW).model
    model = LanguageModel(config, seed=1).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    text = torch.randint(256, (BATCH, LENGTH))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        stream, _ = fold(list(model.layers), Stream((text,)), [None] * len(model.layers))
    assert models.architecture(config.arch).num_parameters(config) > 0
    return sum(storage.nbytes() for storage in kept.values()) if stream.hidden.requires_grad else 0


@pytest.mark.slow
def test_thirty_hierarchical_layers_keep_less_than_fourteen_plain_ones(capsys):
    plain = kept_bytes("vanilla-14")
    shares = {name: kept_bytes(name) / plain for name in ("bottom-up-30", "top-down-30")}
    with capsys.disabled():
        print(f"\nkept for the backward pass at width 256, context {LENGTH}, batch {BATCH}, fp32:")
        print(f"  vanilla, 14 layers: {plain / 2**20:.1f} MiB")
        for name, share in shares.items():
            print(f"  {name}, 9@1 9@4 12@16: {share * plain / 2**20:.1f} MiB ({share - 1:+.0%})")
    assert all(share < 1 for share in shares.values())
