"""`train.deterministic: true`: the same layout gives the same bits."""

import os

import torch


def set_determinism(on: bool) -> None:
    """Before the first kernel. cuBLAS reads its workspace setting when it starts."""
    if not on:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # no one reads memory before it is written, and filling it cost a layer 2 to 6 % of its time, there and back
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
