"""Bytes to tokens and back without loss.

A tokenizer is a file here, and is found by the kind that dataset.json names.
"""
