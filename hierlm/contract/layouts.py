"""The tensor plan and the layer list under real tensor and pipeline parallelism: gloo processes on this machine."""

from collections.abc import Mapping
from typing import Any

import torch

from hierlm import plugins
from hierlm.config.load import check_mapping
from hierlm.contract.case import Case, ContractError, NotConcernedError, require
from hierlm.contract.ranks import RankFailedError, run_ranks

STEPS, ROWS, LENGTH, RELATIVE = 3, 4, 22, 1e-5

Steps = list[tuple[float, float]]
"""Loss and gradient norm of each step."""


def tensor_parallel_2_equals_one_process(case: Case) -> None:
    """Losses and gradient norms of three steps, with the weights cut over two processes as TENSOR_PLAN says."""
    _equals_one_process(case, "tensor")


def pipeline_parallel_2_equals_one_process(case: Case) -> None:
    """Losses and gradient norms of three steps, with the list cut into two stages."""
    _equals_one_process(case, "pipeline")


def train(written: Mapping[str, Any]) -> Steps:
    """On one rank: a few steps of a run."""
    from hierlm.models.assembly import is_recurrent
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes
    from hierlm.phases.timeline import Timeline

    config, _ = check_mapping(written)
    assert config is not None
    engine, timeline = Engine(config, process=start_processes()), Timeline(config.phases)
    recurrent, steps = is_recurrent(config.model), []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        whole = torch.randint(config.model.vocab_size, (ROWS, LENGTH + 1), generator=generator)
        starts = {"starts": torch.full((ROWS,), step == 0)} if recurrent else {}
        result = engine.train_step(whole[:, :-1], whole[:, 1:], moment=timeline.at(step), **starts)
        steps.append((engine.global_mean(result.loss), float(result.grad_norm)))
    return steps


def _equals_one_process(case: Case, axis: str) -> None:
    written = _run(case, {f"{axis}_parallel_degree": 2})
    _, problems = check_mapping(written)
    if problems:
        raise NotConcernedError("; ".join(f"{problem.path}: {problem.text}" for problem in problems))
    [alone] = _trained(_run(case, {}), world_size=1)
    for rank, steps in enumerate(_trained(written, world_size=2)):
        for step, (found, expected) in enumerate(zip(steps, alone, strict=True), start=1):
            for what, ours, theirs in zip(("loss", "gradient norm"), found, expected, strict=True):
                line = f"step {step}, rank {rank}: {what} {ours:.7g}, one process has {theirs:.7g}"
                require(abs(ours - theirs) <= RELATIVE * abs(theirs), line)


def _trained(written: Mapping[str, Any], *, world_size: int) -> list[Steps]:
    try:
        return run_ranks(train, world_size, written)
    except RankFailedError as error:
        raise ContractError(f"on {world_size} processes: {str(error).strip().splitlines()[-1]}") from error


def _run(case: Case, degrees: Mapping[str, int]) -> dict[str, Any]:
    """A run config around the model; no file of its dataset is read."""
    return {
        "name": "contract",
        "plugins": plugins.records(),
        "model": dict(case.part),
        "data": {"path": "none"},
        "phases": [
            {
                "name": "only",
                "duration": {"steps": STEPS},
                "sequence_length": LENGTH,
                "global_batch_size": ROWS,
                "learning_rate": {"peak": 1e-3, "final": 1e-4},
            }
        ],
        "parallel": {"micro_batch_size": 2, **degrees},
        "optim": {"gradient_clip": 0.5},
        "train": {"precision": "fp32"},
    }
