"""What a rank keeps in the host's memory changes no number, and its checkpoints are those of any other run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parallel.test_engine import layout, run

OFFLOADS = [
    pytest.param(1, "optimizer", "fp32", marks=pytest.mark.slow),
    pytest.param(2, "optimizer", "bf16", marks=pytest.mark.slow),
    pytest.param(3, "optimizer", "fp32", marks=pytest.mark.slow),
    pytest.param(3, "parameters", "fp32", marks=pytest.mark.slow),
]


@pytest.mark.distributed
@pytest.mark.parametrize(("stage", "what", "precision"), OFFLOADS)
def test_losses_norms_and_checkpoints_are_those_without(stage: int, what: str, precision: str, tmp_path: Path) -> None:
    plain = layout(2, stage, precision)
    offloaded = [*plain, f"parallel.offload={what}"]
    expected: Any = torch.tensor(run(plain, 2))
    begun = run(offloaded, 2, last=3, save=str(tmp_path))
    rest, rest_without = (run(how, 2, first=3, load=str(tmp_path)) for how in (offloaded, plain))
    relative = 1e-5 if precision == "fp32" else 1e-2
    torch.testing.assert_close(torch.tensor(begun + rest), expected, rtol=relative, atol=0)
    torch.testing.assert_close(torch.tensor(rest_without), expected[3:], rtol=relative, atol=0)
