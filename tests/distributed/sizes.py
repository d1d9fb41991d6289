"""Sizes of a model that trains on several processes in no time."""

TWO_LAYERS = [
    "model.num_layers=2",
    "model.hidden_dim=16",
    "model.num_heads=2",
    "model.ffn_dim=32",
    "model.vocab_size=64",
]
