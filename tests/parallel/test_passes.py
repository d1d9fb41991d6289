"""How an evaluation goes through the stages of a pipeline."""

from pathlib import Path

import pytest

from hierlm.parallel.passes import rows_of_part
from hierlm.train.valid_splits import PARTS_A_STAGE, rows_of_a_pass
from tests.config.making import config


@pytest.mark.parametrize(
    ("num_rows", "num_stages", "most", "expected"),
    [(32, 4, 2, 2), (8, 4, 2, 2), (4, 4, 2, 1), (6, 4, 2, 2), (6, 4, 4, 6), (9, 3, 2, 3), (1, 2, 1, 1)],
)
def test_parts_are_as_large_as_in_training_where_they_fill_the_pipeline(
    num_rows: int, num_stages: int, most: int, expected: int
) -> None:
    rows = rows_of_part(num_rows, num_stages=num_stages, most=most)
    assert rows == expected and num_rows % rows == 0


@pytest.mark.parametrize("num_stages", [2, 4])
def test_stages_lie_idle_for_a_fifth_of_an_evaluation(num_stages: int, tmp_path: Path) -> None:
    found = config(tmp_path, f"parallel.pipeline_parallel_degree={num_stages}", "train.eval_rows=null")
    rows = rows_of_a_pass(found)
    together = found.parallel.micro_batch(global_batch_size=found.phases[0].global_batch_size)
    parts = rows // rows_of_part(rows, num_stages=num_stages, most=together)
    assert parts == PARTS_A_STAGE * num_stages
    assert (num_stages - 1) / (parts + num_stages - 1) <= 0.2


def test_no_more_rows_are_evaluated_than_are_asked_for(tmp_path: Path) -> None:
    found = config(tmp_path, "parallel.pipeline_parallel_degree=2", "train.eval_rows=3", "parallel.micro_batch_size=1")
    assert rows_of_a_pass(found) == 3
    assert rows_of_a_pass(config(tmp_path)) == 8
