"""Layers that carry a state from token to token: LSTM and its multi-scale kind, and the Legendre memory."""
