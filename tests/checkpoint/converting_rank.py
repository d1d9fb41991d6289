"""One rank of a conversion, as a process of its own: python -m tests.checkpoint.converting_rank FOLDER MEMORY_BYTES.

It imports what a conversion needs and prints, as JSON, its peak of memory before and after, and how often it has opened
each file of the checkpoint.
"""

import io
import json
import os
import sys
from collections import Counter
from pathlib import Path

import torch.distributed as dist

from hierlm.checkpoint.universal import write_universal
from hierlm.parallel.messages import team_of


def peak_bytes() -> int:
    """The most that has been resident at a time since the process began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    folder, memory_bytes = Path(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    team = team_of()
    team.tell("all are there")
    before, opened = peak_bytes(), Counter[str]()
    sys.addaudithook(lambda event, given: opened.update(_opened_by(event, given, folder / "engine")))
    write_universal(
        folder / "engine", folder / "converted", progress=lambda done, of: None, team=team, memory_bytes=memory_bytes
    )
    after = peak_bytes()
    io.TextIOWrapper(sys.stdout.buffer, write_through=True).write(
        json.dumps({"before": before, "after": after, "opened": opened}) + "\n"
    )
    dist.destroy_process_group()


def _opened_by(event: str, given: tuple[object, ...], engine: Path) -> list[str]:
    return [Path(str(given[0])).name] if event == "open" and str(given[0]).startswith(str(engine)) else []


if __name__ == "__main__":
    main()
