"""How the cost of a training step grows with the length of a row: LMU, LMU with global attention, plain transformer.

    python -m tests.benchmarks.bench_lmu [longest length]

Time is processor time of forward and backward, the best of three; memory is what autograd keeps for the backward pass.
"""

import sys
import time

import torch
from torch import Tensor

from hierlm import models
from hierlm.models.assembly import LanguageModel

WIDTH = {"vocab_size": 256, "hidden_dim": 64, "num_heads": 1, "num_layers": 2}
LMU = WIDTH | {"arch": "lmu", "ffn_dim": 128, "memory_order": 100, "reduced_order": 10, "window_length": 1024}
MODELS: dict[str, dict[str, object]] = {
    "lmu": LMU,
    "lmu, whole row at once": LMU | {"chunk_length": None},
    "lmu, global attention": LMU | {"global_attention": True},
    "transformer": WIDTH | {"arch": "transformer", "ffn_dim": 256},
}


def step_seconds(model: LanguageModel, tokens: Tensor) -> float:
    """Processor seconds of one forward and backward pass, the best of three."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        _loss(model, tokens).backward()
        seconds.append(time.process_time() - start)
    return min(seconds)


def kept_bytes(model: LanguageModel, tokens: Tensor) -> int:
    """Bytes of the distinct storages kept for the backward pass."""
    storages: dict[int, int] = {}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)  # alive, so that no address is used twice
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _loss(model, tokens)
    return sum(storages.values())


def _loss(model: LanguageModel, tokens: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(model(tokens)[0][0], tokens[0])


def main(longest: int) -> None:
    """One table a model: length, seconds, megabytes, and each over those of half the length."""
    torch.set_num_threads(1)
    for name, part in MODELS.items():
        model = models.from_config({"model": part}, seed=0)
        print(f"{name}\n{'length':>8} {'seconds':>9} {'x':>5} {'MB kept':>9} {'x':>5}")
        before: tuple[float, int] | None = None
        length = 1024
        while length <= longest:
            tokens = torch.randint(256, (1, length), generator=torch.Generator().manual_seed(0))
            now = (step_seconds(model, tokens), kept_bytes(model, tokens))
            growth = ("", "") if before is None else (f"{now[0] / before[0]:.2f}", f"{now[1] / before[1]:.2f}")
            print(f"{length:>8} {now[0]:>9.3f} {growth[0]:>5} {now[1] / 1e6:>9.1f} {growth[1]:>5}", flush=True)
            before, length = now, 2 * length


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 16_384)
