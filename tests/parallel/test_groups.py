"""A layout needs as many processes as the product of its degrees."""

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
