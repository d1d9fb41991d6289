"""A step's time over a slow network, beside that of another checkout of this repository: two nodes of one rank each.

    git worktree add ../before COMMIT
    python tests/benchmarks/slow_network.py ../before

Needs root: each node is a network namespace, and what leaves it is slowed by `tc` (its token bucket:
not every kernel has netem). The two checkouts train in
turn, in processes of their own; told is the ratio of the medians, theirs over ours.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

OURS = Path(__file__).parents[2]
RATE = "200mbit"
NODES = ("hierlm-node-0", "hierlm-node-1")
CARD, ADDRESS = "slow0", "10.77.0.{}"
ROUNDS, STEPS, WARM_UP = 3, 3, 1
LEAST = 1.25
"""Times faster than what sends 3 n values after the backward pass."""
MODEL = (
    *("model.num_layers=6", "model.hidden_dim=512", "model.num_heads=4", "model.ffn_dim=2048"),
    *("phases.0.sequence_length=32", "phases.0.global_batch_size=4", "parallel.micro_batch_size=1"),
    "parallel.data_parallel_degree=2",
)
KINDS = {
    "ZeRO 1, fp32": ["parallel.zero_stage=1"],
    "ZeRO 2, fp32": ["parallel.zero_stage=2"],
    "ZeRO 1, bf16": ["parallel.zero_stage=1", "train.precision=bf16"],
    "ZeRO 2, bf16": ["parallel.zero_stage=2", "train.precision=bf16"],
}


def rank_main(overrides: Sequence[str]) -> None:
    """One rank of whichever checkout stands first on the path: seconds of its steps, as JSON, on the last line."""
    import torch

    from hierlm.config.load import load_config
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes
    from hierlm.phases.timeline import Timeline

    config = load_config("configs/tiny/transformer.yaml", list(overrides))
    engine, timeline, seconds = Engine(config, process=start_processes()), Timeline(config.phases), []
    phase = config.phases[0]
    rows = torch.randint(256, (phase.global_batch_size, phase.sequence_length + 1))
    mine = rows[list(engine.local_rows(phase.global_batch_size))]
    for step in range(WARM_UP + STEPS):
        began = time.perf_counter()
        result = engine.train_step(mine[:, :-1], mine[:, 1:], moment=timeline.at(step))
        float(result.loss)
        seconds.append(time.perf_counter() - began)
    print("\n" + json.dumps(seconds[WARM_UP:]), flush=True)
    os._exit(0)


@contextmanager
def nodes() -> Iterator[None]:
    """Two namespaces with a card each and a slow line between them."""
    _ip(*(f"netns add {node}" for node in NODES), f"link add {CARD} type veth peer name {CARD}-1")
    try:
        for number, (node, card) in enumerate(zip(NODES, (CARD, f"{CARD}-1"), strict=True)):
            inside = f"-n {node}"
            _ip(f"link set {card} netns {node}", f"{inside} link set {card} name {CARD}")
            _ip(f"{inside} addr add {ADDRESS.format(number + 1)}/24 dev {CARD}", f"{inside} link set {CARD} up")
            _ip(f"{inside} link set lo up")
            slow = f"ip netns exec {node} tc qdisc add dev {CARD} root tbf rate {RATE} burst 64kb latency 400ms"
            subprocess.run(slow.split(), check=True)
        yield
    finally:
        _ip(*(f"netns del {node}" for node in NODES))


def _ip(*commands: str) -> None:
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


def seconds_of_a_step(checkout: Path, overrides: Sequence[str]) -> float:
    """The median of some steps, on the rank that is slower."""
    with tempfile.TemporaryDirectory() as folder:
        ranks = [_start(rank, checkout, overrides, meeting=Path(folder) / "meeting") for rank in range(len(NODES))]
        found = [json.loads(rank.communicate(timeout=600)[0].splitlines()[-1]) for rank in ranks]
    return max(median(each) for each in found)


def _start(rank: int, checkout: Path, overrides: Sequence[str], *, meeting: Path) -> "subprocess.Popen[str]":
    sys.path.insert(0, str(OURS))
    from hierlm.meeting import rank_environment

    network = {"MASTER_ADDR": ADDRESS.format(1), "GLOO_SOCKET_IFNAME": CARD}
    own = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    environment = {**os.environ, **rank_environment(rank, num_ranks=len(NODES), meeting=meeting), **network, **own}
    command = ["ip", "netns", "exec", NODES[rank], sys.executable, "-W", "ignore", __file__, "--rank", *overrides]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=quiet, text=True)


def main() -> None:
    """Print a line for each kind; exit code 1 where ours is not so much faster in fp32."""
    theirs, is_well = Path(sys.argv[1]).resolve(), True
    chosen = {name: words for name, words in KINDS.items() if len(sys.argv) < 3 or sys.argv[2] in name}
    with nodes():
        for name, words in chosen.items():
            pairs = [
                [seconds_of_a_step(checkout, [*MODEL, *words]) for checkout in (theirs, OURS)] for _ in range(ROUNDS)
            ]
            before, after = (median(column) for column in zip(*pairs, strict=True))
            is_well &= before / after >= LEAST
            claimed = f"claimed >= {LEAST}  {'holds' if before / after >= LEAST else 'MISSED'}"
            print(f"{name}: {before:.3f} s before, {after:.3f} s now: {before / after:.2f}x  {claimed}", flush=True)
    sys.exit(int(not is_well))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank_main(sys.argv[2:])
    else:
        main()
