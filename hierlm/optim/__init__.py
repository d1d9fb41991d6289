"""Parameter groups and the optimizer."""
