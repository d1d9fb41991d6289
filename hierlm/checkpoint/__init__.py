"""Checkpoints: layout on disk, commit, verify, retention, reading without the engine."""
