"""Any optimizer goes through all that AdamW goes through: freezing phases, saving, resuming, another layout, digest."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from hierlm.checkpoint.canonical import read_canonical
from hierlm.checkpoint.digest import digest
from hierlm.checkpoint.universal import write_universal
from hierlm.config.load import load_config
from hierlm.durable import FileWriter
from hierlm.errors import UserError
from hierlm.parallel.engine import TAG
from hierlm.phases.timeline import Timeline
from tests.distributed.spawn import end_groups, run_ranks
from tests.distributed.test_frozen_parameters import SMALL, STEPS, is_trained, layout

SAVED_AT = (2, 3, 4, 6)
"""The ends of the phases, and where a run goes on: inside the phase that freezes."""

QUICK = [("lion", (2, 1, 1, 1), (1, 2, 1, 0), []), ("sgd", (2, 1, 1, 3), (2, 1, 1, 2), [])]
SLOW = [
    ("sgd", (2, 1, 1, 0), (1, 1, 2, 1), []),
    ("lion", (2, 1, 1, 2), (2, 1, 1, 3), ["parallel.offload=optimizer"]),
]
MATRIX = [
    ("lion", (1, 2, 1, 0), (2, 1, 1, 1), []),
    ("lion", (1, 1, 2, 1), (2, 1, 1, 3), []),
    ("lion", (2, 1, 1, 3), (1, 2, 1, 1), []),
    ("lion", (1, 2, 2, 1), (2, 2, 1, 3), []),
    ("sgd", (2, 1, 1, 1), (1, 2, 1, 0), []),
    ("sgd", (2, 1, 1, 2), (1, 1, 2, 0), []),
    ("sgd", (2, 1, 1, 3), (2, 1, 1, 3), ["parallel.offload=parameters"]),
    ("sgd", (2, 1, 2, 1), (1, 2, 2, 1), []),
    ("lion", (2, 1, 1, 1), (1, 2, 1, 1), ["train.precision=bf16"]),
    ("lion", (2, 1, 1, 3), (2, 1, 1, 2), ["train.precision=bf16"]),
    ("sgd", (2, 1, 1, 2), (1, 1, 2, 1), ["train.precision=bf16"]),
]


def cases() -> list[Any]:
    groups = (([], QUICK), ([pytest.mark.slow], SLOW), ([pytest.mark.slow, pytest.mark.matrix], MATRIX))
    return [pytest.param(*case, marks=marks, id=name_of(*case)) for marks, group in groups for case in group]


def name_of(name: str, where: Any, target: Any, more: list[str]) -> str:
    source, goal = ("".join(map(str, layout)) for layout in (where, target))
    return "-".join([name, source, "to", goal, *(word.rpartition("=")[2] for word in more)])


def engine_of(name: str, where: Any, more: list[str]) -> Any:
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    end_groups()
    words = [*SMALL, *layout(*where), f"optim.name={name}", *more]
    return Engine(load_config("configs/tiny/transformer.yaml", words), process=start_processes())


def steps_of(engine: Any, first: int, last: int, *, save: Path | None = None) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step; saved into `save/<step>` where the list above says so."""
    timeline, found = Timeline(engine.config.phases), []
    for step in range(first, last):
        whole = torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(step))
        mine = whole[list(engine.local_rows(4))]
        result = engine.train_step(mine[:, :-1], mine[:, 1:], moment=timeline.at(step))
        found.append((engine.global_mean(result.loss), float(result.grad_norm)))
        if save is not None and step + 1 in SAVED_AT:
            save_into(engine, save / str(step + 1))
    return found


def save_into(engine: Any, folder: Path) -> None:
    engine.save(folder, client_state={}, open_file=FileWriter(folder).open)
    dist.barrier()


def whole_life(name: str, where: Any, target: Any, more: list[str], root: str) -> dict[str, Any]:
    """On every rank: a run to its end, gone on with from step 3 in the same layout and in another one."""
    folder = Path(root)
    whole = steps_of(engine_of(name, where, more), 0, STEPS, save=folder)
    again = engine_of(name, where, more)
    again.load(folder / "3")
    resumed = steps_of(again, 3, STEPS)
    if dist.get_rank() == 0:
        write_universal(folder / "3" / TAG, folder / "universal", progress=lambda done, total: None)
    dist.barrier()
    stage_1 = [] if target[3] else ["parallel.offload=none"]
    moved = engine_of(name, target, [*more, *stage_1])
    moved.load_converted(folder / "universal")
    save_into(moved, folder / "moved")
    rest = steps_of(moved, 3, STEPS)
    other = engine_of("adamw", target, [*more, *stage_1])
    try:
        other.load_converted(folder / "universal")
    except UserError as error:
        return {"whole": whole, "resumed": resumed, "rest": rest, "refused": str(error)}
    raise AssertionError("the state of another optimizer was taken")


@pytest.mark.distributed
@pytest.mark.parametrize(("name", "where", "target", "more"), cases())
def test_an_optimizer_is_frozen_saved_resumed_and_moved_to_another_layout(
    name: str, where: Any, target: Any, more: list[str], tmp_path: Path
) -> None:
    found = run_ranks(whole_life, where[0] * where[1] * where[2], name, where, target, more, str(tmp_path))[0]
    assert found["resumed"] == found["whole"][3:]
    relative = 2e-2 if "train.precision=bf16" in more else 1e-5
    torch.testing.assert_close(torch.tensor(found["rest"]), torch.tensor(found["whole"][3:]), rtol=relative, atol=0)
    assert digest(tmp_path / "moved" / TAG) == digest(tmp_path / "3" / TAG)
    assert len({digest(tmp_path / str(step) / TAG)["optimizer_sha256"] for step in SAVED_AT}) == len(SAVED_AT)
    assert f"holds the state of {name} (" in found["refused"] and "optim.name is adamw (" in found["refused"]
    states = [read_canonical(tmp_path / str(step) / TAG) for step in (2, 4, 6)]
    for phase, (before, after) in enumerate(pairwise(states), start=1):
        for parameter in before.names:
            same = [torch.equal(before.tensor(parameter, k), after.tensor(parameter, k)) for k in before.kinds]
            trained = is_trained(parameter, phase)
            assert any(same) is not trained and all(same) is not trained, parameter
