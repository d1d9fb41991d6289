"""The peak of tensor bytes in real training steps, told by torch's CPU allocator, not by the resident set."""

import logging
from collections.abc import Callable
from time import sleep
from typing import Any

import torch

from hierlm.config.load import load_config
from hierlm.plan.device import Device
from hierlm.plan.estimate import Estimator
from tests.distributed.spawn import run_ranks

STEPS = 2
"""The second step is the first with the optimizer's moments from its beginning."""

MESSAGES = (
    "all_reduce", "all_gather_into_tensor", "all_gather", "all_to_all_single", "reduce_scatter_tensor", "broadcast",
    "send", "recv",
)  # fmt: skip
SECONDS_TO_LET_GO = 0.01

LAYOUTS = {
    "dp1": ["parallel.zero_stage=0"],
    "dp2 zero1": ["parallel.data_parallel_degree=2", "parallel.zero_stage=1"],
    "tp2": ["parallel.tensor_parallel_degree=2", "parallel.zero_stage=0"],
    "pp2": ["parallel.pipeline_parallel_degree=2", "parallel.zero_stage=0", "parallel.micro_batch_size=2"],
}

CPU = Device(
    name="cpu",
    bf16_flops=1e11,
    fp32_flops=1e11,
    memory_bytes=2**40,
    memory_bandwidth=1e10,
    kernel_seconds=1e-5,
    node_link=1e9,
    fabric_link=1e9,
    per_node=8,
    is_gpu=False,
    source="made up: only the kernels a CPU takes matter here",
)


def predicted_peaks(path: str, overrides: list[str]) -> list[int]:
    """Bytes of every rank, in rank order."""
    config = load_config(path, overrides)
    estimate = Estimator(config, CPU).estimate(config.parallel)
    stages = [stage.peak.total for stage in estimate.phases[0].stages]
    per_stage = config.parallel.world_size // len(stages)
    return [peak for peak in stages for _ in range(per_stage)]


def measured_peaks(path: str, overrides: list[str]) -> list[int]:
    """Bytes of every rank, in rank order."""
    world_size = load_config(path, overrides).parallel.world_size
    return run_ranks(_peak_of_this_rank, world_size, path, overrides)


def _peak_of_this_rank(path: str, overrides: list[str]) -> int:
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes
    from hierlm.phases.timeline import Timeline

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it warns on stdout of what we chose
    config, process = load_config(path, overrides), start_processes()
    _let_gloo_finish()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=False) as profiler:
        engine = Engine(config, process=process)
        for step in range(STEPS):
            _train(engine, Timeline(config.phases).at(step))
    return _most_held(profiler)


def _train(engine: Any, moment: Any) -> None:
    phase = moment.phase
    size = (len(engine.local_rows(phase.global_batch_size)), phase.sequence_length + 1)
    rows = torch.randint(engine.config.model.vocab_size, size)
    engine.train_step(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), moment=moment)


def _let_gloo_finish() -> None:
    """Wait a moment after every message: what gloo's own thread frees last, the profiler of this thread never hears of.

    With the option to profile all threads it hears of no memory at all.
    """
    for name in MESSAGES:
        setattr(torch.distributed, name, _then_wait(getattr(torch.distributed, name)))


def _then_wait(send: Callable[..., Any]) -> Callable[..., Any]:
    def sent(*args: Any, **kwargs: Any) -> Any:
        handle = send(*args, **kwargs)
        sleep(SECONDS_TO_LET_GO)
        return handle

    return sent


def _most_held(profiler: Any) -> int:
    """Every event is bytes taken or given back; nothing was held when the profiler started."""
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak
