"""Untrained runs in memory, and datasets of a given text."""

from pathlib import Path
from typing import Any

import torch

from hierlm.config.load import load_config
from hierlm.inference.load_run import LoadedRun
from hierlm.inference.remembering import Remembering
from hierlm.models.assembly import LanguageModel
from tests.conftest import ROOT
from tests.data_pipeline.making import prepared

TEXT = b"".join(f"line {number} of a small text\n".encode() for number in range(60))


def dataset(folder: Path, text: bytes) -> Path:
    """Prepared from bytes, all of it `train`; by hand as small as two tokens."""
    prepared(folder / "data", text, tokenizer="bytes")
    return folder / "data"


def loaded_run(
    arch: str, data: Path, *overrides: str, remembering: Remembering | None = None, length: int = 16
) -> LoadedRun:
    """A tiny model with first weights far from uniform, so that losses differ from token to token."""
    settings = [f"data.path={data}", f"phases.0.sequence_length={length}", *overrides]
    config = load_config(str(ROOT / f"configs/tiny/{arch}.yaml"), settings)
    model_config: Any = (remembering or Remembering()).applied_to(config.model)
    model = LanguageModel(model_config, seed=config.seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return LoadedRun(config, model, step=1, device=torch.device("cpu"))
