"""Thirty layers of which nine on tokens need less memory at their peak than fourteen plain ones (2005.00581)."""

import pytest
import torch

from tests.benchmarks.bench_activation_memory import HIERARCHICAL, MEASURES, PLAIN, measure, table
from tests.benchmarks.memory import peak_tensor_bytes


@pytest.mark.matrix
def test_thirty_hierarchical_layers_need_less_at_their_peak_than_fourteen_plain_ones(capsys):
    measured = {name: measure(name) for name in (PLAIN, *HIERARCHICAL)}
    with capsys.disabled():
        print("\n" + table(measured))
    for name in HIERARCHICAL:
        assert all(measured[name][key] < measured[PLAIN][key] for key in MEASURES), name


def test_the_measured_peak_is_that_of_the_worst_moment():
    def work():
        held = torch.ones(1 << 20)  # 4 MiB
        _ = held + 1  # 4 MiB more for a moment
        del _
        torch.ones(1 << 18)

    assert peak_tensor_bytes(work) == pytest.approx(8 << 20, rel=0.01)
