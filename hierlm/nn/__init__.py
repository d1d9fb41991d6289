"""Layers, one idea a file: single-device mathematics that knows no rank."""
