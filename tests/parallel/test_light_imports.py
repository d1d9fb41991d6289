"""A rank imports neither the tracker's client nor torch's compiler before somebody needs them."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, quiet_environment

LOOK = """
import json, sys
import hierlm.train.run
import torch
found = {name: name in sys.modules for name in ("mlflow", "torch._inductor.compile_fx", "deepspeed", "megatron.core")}
found["compiles"] = torch.compile.__module__
import mlflow
found["mlflow can be imported"] = bool(mlflow.__version__)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_training_process_starts_without_mlflow_and_the_compiler():
    command = [sys.executable, "-c", LOOK]
    done = subprocess.run(command, cwd=ROOT, env=quiet_environment(), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["mlflow"] and not found["torch._inductor.compile_fx"]
    assert found["deepspeed"] and found["megatron.core"]
    assert found["compiles"] == "torch" and found["mlflow can be imported"]
