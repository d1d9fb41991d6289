"""A process that builds many engines is at the last one as it was at the first."""

import os
import sys

import pytest

from hierlm.config.load import load_config
from tests.distributed.spawn import end_groups, run_ranks


def threads_after_each(num_engines: int) -> list[int]:
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    process, found = start_processes(), []
    degrees = ("parallel.pipeline_parallel_degree=2", "phases.0.global_batch_size=2")
    for _ in range(num_engines):
        Engine(load_config("configs/tiny/transformer.yaml", degrees), process=process)
        end_groups()
        found.append(len(os.listdir("/proc/self/task")))
    return found


@pytest.mark.distributed
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_an_engine_that_is_given_up_leaves_no_threads_of_its_groups() -> None:
    for counts in run_ranks(threads_after_each, 2, 4):
        assert counts[-1] == counts[0], counts
