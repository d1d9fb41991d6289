"""Runs that hierlm 0.1 left behind are gone on with: a finished one by a further phase, a killed one where it stood.

`tests/fixtures/runs_of_0_1.tar.gz` was made by the last commit of 0.1 with torch 2.13.0 and deepspeed 0.19.8: a small
byte dataset, the configs, a `transformer_xl` on two data-parallel ranks that finished its first phase, an `hourglass`
in bf16 over two pipeline stages that was killed after the checkpoint of step 4, and in `expected.json` what 0.1 itself
went on with.
"""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import hierlm

FIXTURE = Path(__file__).parents[1] / "fixtures" / "runs_of_0_1.tar.gz"
SAVED_AT = 4
ALONE = ["parallel.data_parallel_degree=1", "parallel.pipeline_parallel_degree=1"]
RELATIVE = {"xl": 1e-5, "glass": 1e-3}
"""Of a loss: in fp32, and in bf16."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A directory as 0.1 left it."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("name", "layout"),
    [("xl", []), ("xl", ALONE), ("glass", []), pytest.param("glass", ALONE, marks=pytest.mark.matrix)],
)
def test_it_is_gone_on_with_as_0_1_did(name: str, layout: list[str], old: Path) -> None:
    expected = json.loads((old / "expected.json").read_text())[name]
    digest = json.loads(hierlm("checkpoint", "digest", f"runs/{name}", "--json", cwd=old).stdout)
    assert digest == expected["digest"]
    hierlm("train", f"{name}.yaml", *layout, cwd=old)
    records = [json.loads(line) for line in (old / "runs" / name / "metrics.jsonl").read_text().splitlines()]
    for kind, key in (("train", "losses"), ("eval", "valid")):
        found = {str(record["step"]): record["loss"] for record in records if record["kind"] == kind}
        assert found == pytest.approx(expected[key], rel=RELATIVE[name])
    first_steps = [attempt["first_step"] for attempt in attempts(old / "runs" / name) if attempt["event"] == "start"]
    assert first_steps == [0, SAVED_AT]


def attempts(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
