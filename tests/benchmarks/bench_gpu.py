"""Tokens per second, MFU and peak memory of one GPU in bf16, through `Engine.train_step`, beside `hierlm plan`.

    python -m tests.benchmarks.bench_gpu

Every case in a process of its own, so that one that runs out of memory takes no other with it; the next one imports
and plans while one is timed. One line where there is no GPU.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import product
from statistics import median
from typing import Any, NamedTuple

import torch

from tests.conftest import ROOT

SIZES = {  # layers, width, heads, feed-forward; 125M and 350M as in 2005.14165, table 2.1, tables of VOCAB not counted
    "125M": (12, 768, 12, 3072),
    "350M": (24, 1024, 16, 4096),
    "1B": (22, 2048, 16, 8192),
}
ROW_TOKENS = {"125M": 65536, "350M": 32768, "1B": 16384}
"""Of a micro-batch: what fits into 80 GB without recomputation."""

ARCHS = {"vanilla": "transformer", "hourglass": "hourglass"}
LENGTHS = (2048, 8192)
STEP_TOKENS = 131072
VOCAB, CHUNK_TOKENS = 50304, 4096
WARM_STEPS, TIMED_STEPS = 2, 5
LONGEST_CASE_SECONDS = 600
NO_GPU = "no GPU was at hand: nothing is measured here"


class Case(NamedTuple):
    """One row of the table."""

    name: str
    size: str
    length: int
    compiled: bool

    def overrides(self) -> list[str]:
        """Of the tiny config; an hourglass has a sixth of its layers at either end, the rest at a third."""
        layers, width, heads, ffn = SIZES[self.size]
        ends = layers // 6
        hierarchy = f"hierarchy={ends}@1 {layers - 2 * ends}@3 {ends}@1"
        return [
            "data.path=unused",
            f"model.{hierarchy if self.name == 'hourglass' else f'num_layers={layers}'}",
            f"model.hidden_dim={width}",
            f"model.num_heads={heads}",
            f"model.ffn_dim={ffn}",
            f"model.vocab_size={VOCAB}",
            f"phases.0.sequence_length={self.length}",
            f"phases.0.global_batch_size={STEP_TOKENS // self.length}",
            f"parallel.micro_batch_size={ROW_TOKENS[self.size] // self.length}",
            "parallel.zero_stage=1",
            "train.precision=bf16",
            "train.deterministic=false",
            f"train.compile={str(self.compiled).lower()}",
            f"train.loss_chunk_tokens={CHUNK_TOKENS}",
        ]


CASES = (
    *(Case(*which, compiled=False) for which in product(ARCHS, SIZES, LENGTHS)),
    *(Case(name, size, LENGTHS[0], compiled=True) for name, size in product(ARCHS, ("125M", "350M"))),
)


def measure(case: Case, device_name: str) -> dict[str, Any]:
    """In this process, which prepares and then waits for a line on stdin before it touches the GPU."""
    from hierlm.config.load import load_config
    from hierlm.costs.flops import flops_per_token
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes
    from hierlm.phases.timeline import Timeline
    from hierlm.train.record.throughput import device_peak

    config = load_config(ROOT / "configs" / "tiny" / f"{ARCHS[case.name]}.yaml", case.overrides())
    flops, planned = flops_per_token(config.model, case.length), _planned(config, device_name)
    sys.stdin.readline()
    engine, timeline = Engine(config, process=start_processes()), Timeline(config.phases)
    rows = torch.randint(
        VOCAB, (STEP_TOKENS // case.length, case.length + 1), generator=torch.Generator().manual_seed(0)
    )
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
        "mfu": rate * flops / peak.flops_per_second,
        "peak_bytes": torch.cuda.max_memory_allocated(engine.process.device),
        "first_step_seconds": taken[0],
        **planned,
    }


def _planned(config: Any, device_name: str) -> dict[str, float]:
    """Of this rank, nothing where the device has no data sheet here."""
    from hierlm.plan import devices
    from hierlm.plan.plan import make_plan

    known = [name for name in devices.names() if name in device_name.lower()]
    if not known:
        return {}
    [phase] = (estimate := make_plan(config, device_name=known[0]).estimate).phases
    return {"planned_bytes": estimate.peak_bytes, "planned_tokens_per_second": phase.tokens_per_second}


class Started(NamedTuple):
    """A case whose process prepares itself."""

    case: Case
    process: subprocess.Popen[str]

    @classmethod
    def of(cls, case: Case) -> "Started":
        words = [case.name, case.size, str(case.length), str(int(case.compiled)), torch.cuda.get_device_name()]
        command = [sys.executable, "-m", "tests.benchmarks.bench_gpu", *words]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return cls(case, subprocess.Popen(command, text=True, cwd=ROOT, **streams))

    def row(self) -> tuple[str, bool]:
        """Let it measure: its row, and whether it ended well."""
        name, size, length, compiled = self.case
        label = f"{name + (', compiled' if compiled else ''):<21}{size:<6}{length:<7}"
        try:
            out, errors = self.process.communicate("go\n", timeout=LONGEST_CASE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return f"{label}not done after {LONGEST_CASE_SECONDS} s", False
        if self.process.returncode:
            return f"{label}failed: {(errors.strip().splitlines() or ['no message'])[-1][:90]}", False
        return label + _figures(json.loads(out.splitlines()[-1])), True


def _figures(found: dict[str, Any]) -> str:
    measured = f"{found['parameters'] / 1e6:>7,.0f} M{found['tokens_per_second']:>10,.0f}{found['mfu']:>8.1%}"
    memory = f"{found['peak_bytes'] / 2**30:>10.2f}"
    if "planned_bytes" in found:
        memory += f"{found['planned_bytes'] / 2**30:>9.2f}{found['planned_bytes'] / found['peak_bytes'] - 1:>+8.1%}"
        memory += f"{found['planned_tokens_per_second']:>11,.0f}"
    return f"{measured}{memory}{found['first_step_seconds']:>9.1f}"


def run(cases: Sequence[Case]) -> bool:
    """Print the table; whether every case ended well."""
    batches = ", ".join(f"{size} {tokens}" for size, tokens in ROW_TOKENS.items())
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16, ZeRO 1 on one rank, no recomputation,")
    print(f"{STEP_TOKENS} tokens a step in micro-batches of {batches}; GiB; the first step compiles")
    print(f"{'':<34}{'':>9}{'':>18}{'peak':>10}{'planned':>9}{'off':>8}{'planned':>11}{'first':>9}")
    columns = f"{'weights':>9}{'tokens/s':>10}{'MFU':>8}{'GiB':>10}{'GiB':>9}{'by':>8}{'tokens/s':>11}{'step, s':>9}"
    print(f"{'model':<21}{'size':<6}{'tokens':<7}{columns}", flush=True)
    all_well, waiting = True, [Started.of(case) for case in cases[:1]]
    for following in [*cases[1:], None]:
        current = waiting.pop()
        waiting += [] if following is None else [Started.of(following)]
        row, is_well = current.row()
        print(row, flush=True)
        all_well &= is_well
    return all_well


def main() -> None:
    """The table of all cases, exit code 1 where one failed; or, with words, one case."""
    if len(sys.argv) > 1:
        name, size, length, compiled, device_name = sys.argv[1:]
        print(json.dumps(measure(Case(name, size, int(length), bool(int(compiled))), device_name)))
        return
    if not torch.cuda.is_available():
        print(NO_GPU)
        return
    sys.exit(int(not run(CASES)))


if __name__ == "__main__":
    main()
