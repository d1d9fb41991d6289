"""Tokens per second, MFU and peak memory of one GPU in bf16, through `Engine.train_step`; one line where there is none.

    python -m tests.benchmarks.bench_gpu

Every case in a process of its own, so that one that runs out of memory takes no other with it.
"""

import json
import subprocess
import sys
import time
from itertools import product
from statistics import median
from typing import Any

import torch

from tests.conftest import ROOT

SIZES = {  # layers, width, heads, feed-forward; 125M and 350M as in 2005.14165, table 2.1, tables of VOCAB not counted
    "125M": (12, 768, 12, 3072),
    "350M": (24, 1024, 16, 4096),
    "1B": (22, 2048, 16, 8192),
}
ARCHS = {"vanilla": "transformer", "hourglass": "hourglass"}
LENGTHS = (2048, 8192)
ROW_TOKENS, STEP_TOKENS = 16384, 65536
"""Tokens of a micro-batch and of a step."""

VOCAB, CHUNK_TOKENS = 50304, 4096
WARM_STEPS, TIMED_STEPS = 3, 7
LONGEST_CASE_SECONDS = 600


def overrides(arch: str, size: str, length: int) -> list[str]:
    """Of the architecture's tiny config; an hourglass has a sixth of its layers at either end, the rest at a third."""
    layers, width, heads, ffn = SIZES[size]
    ends = layers // 6
    depth = f"num_layers={layers}" if arch == "transformer" else f"hierarchy={ends}@1 {layers - 2 * ends}@3 {ends}@1"
    return [
        "data.path=unused",
        f"model.{depth}",
        f"model.hidden_dim={width}",
        f"model.num_heads={heads}",
        f"model.ffn_dim={ffn}",
        f"model.vocab_size={VOCAB}",
        f"phases.0.sequence_length={length}",
        f"phases.0.global_batch_size={STEP_TOKENS // length}",
        f"parallel.micro_batch_size={ROW_TOKENS // length}",
        "parallel.zero_stage=1",
        "train.precision=bf16",
        "train.deterministic=false",
        f"train.loss_chunk_tokens={CHUNK_TOKENS}",
    ]


def measure(arch: str, size: str, length: int) -> dict[str, float]:
    """In this process."""
    from hierlm.config.load import load_config
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes
    from hierlm.phases.timeline import Timeline
    from hierlm.plan.flops import flops_per_token
    from hierlm.train.throughput import device_peak

    config = load_config(ROOT / "configs" / "tiny" / f"{arch}.yaml", overrides(arch, size, length))
    engine, timeline = Engine(config, process=start_processes()), Timeline(config.phases)
    rows = torch.randint(VOCAB, (STEP_TOKENS // length, length + 1), generator=torch.Generator().manual_seed(0))
    tokens, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    taken = []
    for step in range(WARM_STEPS + TIMED_STEPS):
        began = time.perf_counter()
        engine.train_step(tokens, targets, moment=timeline.at(step)).loss.item()  # waits for the device
        taken.append(time.perf_counter() - began)
    rate = STEP_TOKENS / median(taken[WARM_STEPS:])
    peak = device_peak(engine.process.device, precision="bf16")
    return {
        "parameters": sum(parameter.numel() for parameter in engine.module.parameters()),
        "tokens_per_second": rate,
        "mfu": rate * flops_per_token(config.model, length) / peak.flops_per_second,
        "peak_bytes": torch.cuda.max_memory_allocated(engine.process.device),
    }


def line(name: str, size: str, length: int) -> tuple[str, bool]:
    """One case in a fresh process: its row, and whether it ended well."""
    case = f"{name:<12}{size:<8}{length:<8}"
    command = [sys.executable, "-m", "tests.benchmarks.bench_gpu", ARCHS[name], size, str(length)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=LONGEST_CASE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"{case}not done after {LONGEST_CASE_SECONDS} s", False
    if done.returncode:
        return f"{case}failed: {(done.stderr.strip().splitlines() or ['no message'])[-1][:80]}", False
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    figures = f"{found['parameters'] / 1e6:>8,.0f} M{found['tokens_per_second']:>14,.0f}{found['mfu']:>8.1%}"
    return f"{case}{figures}{found['peak_bytes'] / 2**30:>10.1f}", True


def main() -> None:
    """Print the table; exit code 1 where a case failed."""
    if len(sys.argv) > 1:
        arch, size, length = sys.argv[1:]
        print(json.dumps(measure(arch, size, int(length))))
        return
    if not torch.cuda.is_available():
        print("no GPU was at hand: nothing is measured here")
        return
    print(f"{torch.cuda.get_device_name()}, bf16, {STEP_TOKENS} tokens a step in micro-batches of {ROW_TOKENS}")
    print(f"{'model':<12}{'size':<8}{'tokens':<8}{'weights':>10}{'tokens/s':>14}{'MFU':>8}{'peak GiB':>10}")
    all_well = True
    for name, size, length in product(ARCHS, SIZES, LENGTHS):
        row, is_well = line(name, size, length)
        print(row, flush=True)
        all_well &= is_well
    sys.exit(int(not all_well))


if __name__ == "__main__":
    main()
