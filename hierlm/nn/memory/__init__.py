"""Layers that carry a memory from segment to segment: Transformer-XL's hidden states, and memory tokens."""
