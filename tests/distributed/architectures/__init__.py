"""Architectures of the tests' own, found like the project's once `known` has been called in a process."""

from pathlib import Path

from hierlm import models

FOLDER = str(Path(__file__).parent)


def known() -> None:
    """Until the process ends; in the process of the tests itself, use `monkeypatch` on `hierlm.models.__path__`."""
    if FOLDER not in models.__path__:
        models.__path__.append(FOLDER)
