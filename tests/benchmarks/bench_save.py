"""How long a save holds training up, and how fast it writes, beside a plain large-file write in the same run.

    python -m tests.benchmarks.bench_save [folder on the disk to measure]

A model of over 100 million parameters with its optimizer, one process, fp32; every kind of save in turn, in rounds.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from hierlm.checkpoint.commit import Saved, save_checkpoint
from hierlm.checkpoint.manifest import Facts, Layout
from hierlm.checkpoint.team import ALONE
from hierlm.config.load import load_config
from hierlm.durable import FileRecord, FileWriter
from hierlm.parallel.engine import Engine
from hierlm.parallel.process import start_processes, stop_processes
from hierlm.phases.timeline import Timeline
from hierlm.train.background_save import BackgroundSave
from hierlm.train.cpu_memory import keep_freed_blocks

REPOSITORY = Path(__file__).parents[2]
LARGE = (
    "model.hidden_dim=1024",
    "model.ffn_dim=4096",
    "model.num_heads=16",
    "model.num_layers=8",
    "phases.0.duration.steps=100000",  # as many as fit beside the saves are made
    "phases.0.sequence_length=16",
    "phases.0.global_batch_size=1",
    "parallel.micro_batch_size=1",
)
ROUNDS = 5
BLOCK_BYTES = 8 << 20
LONGEST_BLOCKING, LEAST_BANDWIDTH = 0.10, 0.70
Write = Callable[[Path], Mapping[str, FileRecord]]


class Bench:
    """One engine and its saves into one folder."""

    def __init__(self, folder: Path) -> None:
        keep_freed_blocks()
        config = load_config(REPOSITORY / "configs" / "tiny" / "transformer.yaml", list(LARGE))
        self.folder, self.timeline, self.step = folder, Timeline(config.phases), 0
        self.engine = Engine(config, process=start_processes())
        self.num_parameters = sum(parameter.numel() for parameter in self.engine.module.parameters())
        self.train_step()

    def train_step(self) -> float:
        """Seconds of one more step."""
        started = perf_counter()
        rows = torch.randint(256, (1, 17), generator=torch.Generator().manual_seed(self.step))
        moment = self.timeline.at(self.step)
        self.engine.train_step(rows[:, :-1], rows[:, 1:], moment=moment)
        self.step += 1
        return perf_counter() - started

    def commit(self, write: Write, *, step: int) -> Saved:
        """What `Checkpointer` does, alone; only the newest checkpoint stays."""
        phase = self.timeline.at(step - 1).phase.name
        facts = Facts(
            step=step,
            tokens_seen=0,
            phase=phase,
            step_in_phase=step,
            layout=Layout(),
            precision="fp32",
            config_fingerprint="0" * 64,
            why="periodic",
        )
        return save_checkpoint(self.folder, facts=facts, write=write, team=ALONE, keep=1)

    def synchronous(self) -> Saved:
        """Straight from the engine to disk."""

        def write(directory: Path) -> Mapping[str, FileRecord]:
            files = FileWriter(directory)
            self.engine.save(directory, client_state={}, open_file=files.open)
            return files.records

        return self.commit(write, step=self.step)

    def beside_training(self) -> dict[str, float]:
        """Seconds of the copy, of the commit, and of the steps made meanwhile."""
        started = perf_counter()
        held, _ = self.engine.hold(client_state={})

        def write(directory: Path) -> Mapping[str, FileRecord]:
            files = FileWriter(directory)
            held.write(directory, open_file=files.open)
            return files.records

        step, blocking = self.step, perf_counter() - started
        save = BackgroundSave(
            lambda: self.commit(write, step=step), step=step, why="periodic", blocking_seconds=blocking
        )
        steps = []
        while not save.is_done:
            steps.append(self.train_step())
        return {"blocking": blocking, "commit": save.result().seconds, "step": median(steps)}

    def plain_write(self, num_bytes: int) -> float:
        """Seconds of a file of as many bytes, synced, written in large blocks from memory."""
        block, path = memoryview(os.urandom(BLOCK_BYTES)), self.folder / "plain"
        started = perf_counter()
        with path.open("wb", buffering=0) as file:
            for _ in range(num_bytes // BLOCK_BYTES):
                file.write(block)
            os.fsync(file.fileno())
        took = perf_counter() - started
        path.unlink()
        return took


def measure(bench: Bench) -> dict[str, list[float]]:
    """Seconds of everything, round by round; a first round for what is set up once is told apart."""
    size, first = bench.synchronous().size_bytes, bench.beside_training()
    found = {"size": [float(size)], "first blocking": [first["blocking"]]}
    for _ in range(ROUNDS):
        row = {"plain": bench.plain_write(size), "quiet step": bench.train_step()}
        row["synchronous"] = bench.synchronous().seconds
        bench.train_step()
        row |= bench.beside_training()
        bench.train_step()
        for key, value in row.items():
            found.setdefault(key, []).append(value)
    return found


def table(found: dict[str, list[float]], *, num_parameters: int) -> tuple[str, bool]:
    """What is printed, and whether both bounds hold."""
    seconds = {key: median(values) for key, values in found.items()}
    size = seconds["size"]
    share, speed = seconds["blocking"] / seconds["synchronous"], seconds["plain"] / seconds["synchronous"]

    def row(name: str, key: str) -> str:
        return f"{name:<44}{seconds[key]:8.3f} s{size / seconds[key] / 2**20:10.0f} MiB/s"

    lines = [
        f"{num_parameters:,} parameters, {size / 2**20:,.0f} MiB with the optimizer; medians of {ROUNDS} rounds",
        row("plain large-file write, synced", "plain"),
        row("synchronous save (all of it blocks)", "synchronous"),
        row("asynchronous save: blocking", "blocking"),
        row("  the first one, which takes the memory", "first blocking"),
        row("  its commit beside training", "commit"),
        f"a step takes {seconds['quiet step']:.3f} s, while a save is written {seconds['step']:.3f} s",
        f"blocking: {share:.1%} of a synchronous save, bound {LONGEST_BLOCKING:.0%}",
        f"bandwidth: {speed:.0%} of a plain write, bound {LEAST_BANDWIDTH:.0%}",
    ]
    return "\n".join(lines), share <= LONGEST_BLOCKING and speed >= LEAST_BANDWIDTH


def main() -> None:
    """Print the table; exit code 1 outside a bound."""
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(prefix="bench-save-", dir=parent) as folder:
        bench = Bench(Path(folder))
        text, is_within = table(measure(bench), num_parameters=bench.num_parameters)
        stop_processes()
    print(text)
    sys.exit(int(not is_within))


if __name__ == "__main__":
    main()
