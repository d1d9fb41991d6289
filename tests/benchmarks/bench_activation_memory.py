"""Peak memory of a forward and backward pass: 30 hierarchical layers against 14 plain ones (2005.00581).

Every model in a process of its own, at equal width, context and batch:

    python -m tests.benchmarks.bench_activation_memory
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from hierlm.config.load import load_config
from hierlm.models.assembly import LanguageModel
from tests.benchmarks.memory import peak_process_bytes, peak_tensor_bytes

REPOSITORY = Path(__file__).parents[2]
PAPERS = REPOSITORY / "configs" / "papers" / "multi_scale"
PLAIN, HIERARCHICAL = "vanilla-14", ("bottom-up-30", "top-down-30")
LENGTH, BATCH = 512, 4  # the context of the configs
NARROW = ("model.hidden_dim=256", "model.ffn_dim=1024", "model.num_heads=4", "model.dropout=0")
GIVEN_BACK_BYTES = 64 << 10
"""Blocks from this size on are mapped and unmapped one by one."""
MEASURES = {
    "kept": "kept for the backward pass, weights not counted",
    "tensors": "peak of live tensors above the weights (allocator)",
    "process": "peak resident memory of a fresh process above the one before the pass",
}


class ForwardAndBackward:
    """One pass of a narrowed paper config over `length` tokens."""

    def __init__(self, name: str) -> None:
        self.model = LanguageModel(load_config(PAPERS / f"{name}.yaml", list(NARROW)).model, seed=1).train()

    def __call__(self, length: int = LENGTH) -> None:
        self._loss(length).backward()
        self.model.zero_grad(set_to_none=True)

    def kept_bytes(self) -> int:
        """Bytes of what a forward pass saves for the backward pass."""
        weights = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        kept: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self._loss(LENGTH)
        return sum(storage.nbytes() for address, storage in kept.items() if address not in weights)

    def _loss(self, length: int) -> torch.Tensor:
        text = torch.randint(256, (BATCH, length), generator=torch.Generator().manual_seed(1))
        return F.cross_entropy(self.model(text)[0][:, :-1].flatten(0, 1), text[:, 1:].flatten())


def measure_here(name: str) -> dict[str, int]:
    """The three measures, in this process: the resident memory first, before anything has raised it."""
    run = ForwardAndBackward(name)
    run(length=16)  # what libraries set up once
    process = peak_process_bytes(run)
    return {"kept": run.kept_bytes(), "tensors": peak_tensor_bytes(run), "process": process}


def measure(name: str) -> dict[str, int]:
    """The same in a fresh process, whose malloc gives back at once what is freed: else it shows in what is resident."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_activation_memory", name]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(GIVEN_BACK_BYTES)}  # glibc's
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY, env=environment)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def table(measured: dict[str, dict[str, int]]) -> str:
    """Every measure of every model, and its share of the plain one's."""
    lines = [f"width 256, context {LENGTH}, batch {BATCH}, fp32; hierarchical: 9@1 9@4 12@16"]
    for key, meaning in MEASURES.items():
        lines.append(f"{meaning}:")
        plain = measured[PLAIN][key]
        for name, found in measured.items():
            lines.append(f"  {name:13} {found[key] / 2**20:8.1f} MiB {found[key] / plain - 1:+5.0%}")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure_here(sys.argv[1])))
    else:
        print(table({name: measure(name) for name in (PLAIN, *HIERARCHICAL)}))
