"""Every layout into every layout: each is trained and saved once, then each loads all others in one process group.

An engine that has loaded one checkpoint has trained on when it loads the next: what a load left out would be seen.
"""

import math
from pathlib import Path
from typing import Any

from hierlm.phases.timeline import Timeline
from tests.checkpoint.layouts import GLOBAL_BATCH_SIZE, GOES_ON_FOR, SAVED_AFTER, overrides, small_engine, steps_made

Layout = dict[str, int]
DEGREES: tuple[Layout, ...] = (
    {"dp": 1},
    {"dp": 2},
    {"tp": 2},
    {"pp": 2},
    {"dp": 2, "tp": 2},
    {"dp": 2, "pp": 2},
    {"tp": 2, "pp": 2},
    {"dp": 2, "tp": 2, "pp": 2},
)
ZERO_0_AND_1 = [degrees | {"zero": stage} for degrees in DEGREES for stage in (0, 1)]
ZERO_2_AND_3 = [{"dp": dp, "zero": stage} for dp in (1, 2, 4) for stage in (2, 3)]
TINY = ("model.hidden_dim=16", "model.num_heads=2", "model.ffn_dim=32", "phases.0.sequence_length=12")
ON = range(SAVED_AFTER, SAVED_AFTER + GOES_ON_FOR)


def name_of(layout: Layout) -> str:
    """`dp2 tp2 zero1`."""
    return " ".join(f"{key}{value}" for key, value in layout.items())


def world_size(layout: Layout) -> int:
    """Ranks of it."""
    return math.prod(value for key, value in layout.items() if key != "zero")


def settings(arch: str, layout: Layout) -> list[str]:
    """As the command line gives them."""
    memory = ("model.memory_length=20",) if arch == "transformer_xl" else ()
    rows = GLOBAL_BATCH_SIZE // layout.get("dp", 1) // layout.get("pp", 1)  # a pipeline gets two micro-batches
    return [*overrides(**layout, more=(*TINY, *memory)), f"parallel.micro_batch_size={rows}"]


def save_source(arch: str, words: list[str], folder: str) -> list[float]:
    """On every rank: some steps, a save, and the losses of the steps after it."""
    engine = small_engine(arch, words)
    steps_made(engine, range(SAVED_AFTER))
    save(engine, Path(folder))
    return steps_made(engine, ON)


def load_each(arch: str, words: list[str], sources: list[str], work: str) -> list[tuple[dict[str, str], list[float]]]:
    """On every rank, of every source in turn: its digest when saved again (on rank 0), and the losses of its steps."""
    import torch.distributed as dist

    from hierlm.checkpoint.digest import digest
    from hierlm.checkpoint.recurrent import read_recurrent_states
    from hierlm.parallel.memory_lanes import LaneState

    engine, found = small_engine(arch, words), []
    phase = Timeline(engine.config.phases).at(SAVED_AFTER - 1).phase
    for number, source in enumerate(sources):
        engine.load_converted(Path(source) / "universal")
        states = [LaneState(*state) for state in read_recurrent_states(Path(source))]
        if states:
            engine.restore_recurrent_state(states, phase=phase)
        again = Path(work) / str(number)
        save(engine, again)
        dist.barrier()
        mine: dict[str, str] = {**digest(again / "engine")} if engine.process.rank == 0 else {}
        found.append((mine, steps_made(engine, ON)))
    return found


def save(engine: Any, folder: Path) -> None:
    """Weights, optimizer and recurrent memory, on every rank."""
    from hierlm.checkpoint.recurrent import write_recurrent_state
    from hierlm.durable import FileWriter

    folder.mkdir(parents=True, exist_ok=True)
    files = FileWriter(folder)
    engine.save(folder, client_state={"iteration": SAVED_AFTER}, open_file=files.open)
    memories = engine.recurrent_state()
    if memories is not None:
        write_recurrent_state(folder, memories, rank=engine.process.rank, open_file=files.open)
