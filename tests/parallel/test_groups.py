"""A layout needs as many processes as the product of its degrees, and leaves nothing behind when it is given up."""

import os
import sys

import pytest

from tests.distributed.spawn import run_ranks


def refusal(data_parallel_degree: int) -> str:
    from hierlm.errors import UserError
    from hierlm.parallel.config import ParallelConfig
    from hierlm.parallel.degrees import Degrees
    from hierlm.parallel.groups import start_groups
    from hierlm.parallel.process import start_processes

    start_processes()
    with pytest.raises(UserError) as caught:
        start_groups(Degrees.of(ParallelConfig(data_parallel_degree=data_parallel_degree)))
    return str(caught.value)


@pytest.mark.distributed
def test_another_number_of_processes_than_the_layout_is_refused_in_one_line_on_every_rank() -> None:
    for said in run_ranks(refusal, 2, 4):
        assert "4 processes, 2 were started; start as many or change a degree" in said and "\n" not in said


def threads_after_each(num_engines: int) -> list[int]:
    from hierlm.config.load import load_config
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.groups import stop_groups
    from hierlm.parallel.process import start_processes

    process, found = start_processes(), []
    degrees = ("parallel.pipeline_parallel_degree=2", "phases.0.global_batch_size=2")
    for _ in range(num_engines):
        Engine(load_config("configs/tiny/transformer.yaml", degrees), process=process)
        stop_groups()
        found.append(len(os.listdir("/proc/self/task")))
    return found


@pytest.mark.distributed
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_an_engine_that_is_given_up_leaves_no_threads_of_its_groups() -> None:
    """Each group has threads, all of which are woken for every message: the tenth engine would be half as fast."""
    for counts in run_ranks(threads_after_each, 2, 4):
        assert counts[-1] == counts[0], counts
