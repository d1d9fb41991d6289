"""Real engines of several layouts for the tests of this room: train, save, load converted, go on."""

from pathlib import Path
from typing import Any

import torch

from hierlm.config.load import load_config
from hierlm.phases.timeline import Timeline

CONFIG = "configs/tiny/{arch}.yaml"
GLOBAL_BATCH_SIZE = 8
SMALL = (
    "phases.0.sequence_length=16",
    f"phases.0.global_batch_size={GLOBAL_BATCH_SIZE}",
    "model.dropout=0.0",
    "train.deterministic=true",
)
SAVED_AFTER, GOES_ON_FOR = 3, 5


def overrides(
    *, dp: int = 1, tp: int = 1, pp: int = 1, zero: int = 0, precision: str = "fp32", more: tuple[str, ...] = ()
) -> list[str]:
    """A layout as the command line gives it."""
    return [
        *SMALL,
        *more,
        f"parallel.data_parallel_degree={dp}",
        f"parallel.tensor_parallel_degree={tp}",
        f"parallel.pipeline_parallel_degree={pp}",
        f"parallel.zero_stage={zero}",
        f"parallel.micro_batch_size={2 if pp == 1 else 1}",
        f"train.precision={precision}",
    ]


def train_and_save(arch: str, settings: list[str], folder: str) -> dict[str, Any]:
    """On every rank: some steps, a save, and the losses of the steps after it; with them what this rank wrote."""
    from hierlm.durable import FileWriter
    from hierlm.parallel.saving import save_engine

    engine = small_engine(arch, settings)
    begun = steps_made(engine, range(SAVED_AFTER))
    files = FileWriter(Path(folder))
    state = {"iteration": SAVED_AFTER, **_universal_info(engine)}
    save_engine(engine._engine, Path(folder), tag="engine", client_state=state, open_file=files.open)
    weights = {name: p.detach().float().clone().numpy() for name, p in engine._engine.module.named_parameters()}
    return {
        "begun": begun,
        "losses": steps_made(engine, range(SAVED_AFTER, SAVED_AFTER + GOES_ON_FOR)),
        "records": files.records,
        "weights": weights,
    }


def load_and_go_on(arch: str, settings: list[str], universal: str, save_again: str = "") -> list[float]:
    """On every rank: the losses after loading a converted checkpoint; saved again before them, if asked."""
    from hierlm.durable import FileWriter
    from hierlm.parallel.saving import save_engine
    from hierlm.parallel.universal import SLICES, load_universal

    engine = small_engine(arch, settings)
    state = load_universal(engine._engine, Path(universal), names=engine._universal_info[SLICES])
    assert state["iteration"] == engine._engine.global_steps == SAVED_AFTER
    if save_again:
        state = {"iteration": SAVED_AFTER, **_universal_info(engine)}
        writer = FileWriter(Path(save_again))
        save_engine(engine._engine, Path(save_again), tag="engine", client_state=state, open_file=writer.open)
    losses = steps_made(engine, range(SAVED_AFTER, SAVED_AFTER + GOES_ON_FOR))
    decays = list(dict.fromkeys(group["weight_decay"] for group in engine._engine.optimizer.param_groups))
    assert decays == [engine.config.optim.weight_decay, 0.0][: len(decays)], decays
    return losses


def small_engine(arch: str, settings: list[str]) -> Any:
    """A fresh engine of a layout, on every rank."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    process = start_processes()
    return Engine(load_config(CONFIG.format(arch=arch), settings), process=process)


def _universal_info(engine: Any) -> dict[str, Any]:
    from hierlm.models.assembly import canonical_kinds
    from hierlm.optim.build import build_optimizer
    from hierlm.parallel.stage_model import tensor_plan
    from hierlm.parallel.universal import INFO, universal_info

    model, module = engine.config.model, engine._engine.module
    optimizer = build_optimizer(engine.config.optim, module, kinds=canonical_kinds(model))
    plan, pipeline = tensor_plan(model), engine.groups.pipeline
    how = {"plan": plan, "vocab_size": model.vocab_size, "pipeline": pipeline}
    return {INFO: universal_info(module, optimizer, **how, tp_degree=engine.groups.degrees["tensor"])}


def steps_made(engine: Any, steps: range) -> list[float]:
    """The losses of some steps, on every rank."""
    timeline, found = Timeline(engine.config.phases), []
    for step in steps:
        moment = timeline.at(step)
        size = (moment.phase.global_batch_size, moment.phase.sequence_length + 1)
        rows = torch.randint(0, engine.config.model.vocab_size, size, generator=torch.Generator().manual_seed(step))
        mine = rows[list(engine.local_rows(size[0]))]
        result = engine.train_step(mine[:, :-1], mine[:, 1:], moment=moment)
        found.append(engine.global_mean(result.loss))
    return found
