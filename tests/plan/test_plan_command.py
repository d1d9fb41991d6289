"""`hierlm plan`: one document, one screen, thousands of ranks, every published setting."""

import json
import time
from pathlib import Path

import pytest

from hierlm.config.load import load_config
from hierlm.plan.device import PRODUCT_SHARE
from hierlm.plan.layer_memory import profile
from hierlm.plan.plan import make_plan
from hierlm.plan.text import WIDTH, show
from launcher.commands.plan import SLICES_AS_A_RUN
from tests.conftest import ROOT, hierlm

LARGE = [
    *("model.num_layers=64", "model.hidden_dim=8192", "model.num_heads=64", "model.ffn_dim=32768"),
    *("model.vocab_size=128256", "phases.0.sequence_length=4096", "phases.0.global_batch_size=2048"),
    *("parallel.data_parallel_degree=64", "parallel.tensor_parallel_degree=8", "parallel.pipeline_parallel_degree=8"),
    *("parallel.zero_stage=1", "parallel.micro_batch_size=1", "train.precision=bf16"),
]
HUGE = ["model.hidden_dim=262144", "model.num_heads=8", "phases.0.global_batch_size=1"]
"""Which no layout can hold: too few heads and rows for enough devices."""

TINY = str(ROOT / "configs/tiny/transformer.yaml")
SLOW_TO_PLAN = {"dynamic_pooling", "skip_cross_head_xl", "recurrent_memory_transformer", "hm_lstm"}
"""Run on real rows, or loop over time: half a minute each."""
FOLDERS = sorted(path for path in (ROOT / "configs/papers").iterdir() if path.name not in SLOW_TO_PLAN)
PAPERS = [sorted(folder.glob("*.yaml"))[0] for folder in FOLDERS]


def test_json_is_one_document_with_the_promised_parts(tmp_path: Path):
    sliced = ("parallel.tensor_parallel_degree=2", "parallel.sequence_parallel=true")
    done = hierlm("plan", TINY, *sliced, "--device", "cpu", "--json", cwd=tmp_path)
    assert done.stderr == f"{SLICES_AS_A_RUN}\n"  # and nothing of what others warn of
    plan = json.loads(done.stdout)
    assert plan["fits"] is True and plan["parameters"] > 0 and plan["stage_cut"]["imbalance"] == 0
    assert set(plan["phases"][0]["flops_per_token"]) == {"forward", "backward", "recompute"}
    peak = plan["phases"][0]["stages"][0]["peak_bytes"]
    parts = {"weights", "gradients", "optimizer", "activations", "temporary", "logits"}
    assert set(peak) == parts | {"moment", "total"}
    assert peak["total"] == sum(peak[part] for part in parts)
    assert plan["not_modelled"]


def test_wrong_input_is_one_line(tmp_path: Path):
    done = hierlm("plan", TINY, "model.num_layer=3", cwd=tmp_path, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "num_layers" in done.stderr


def test_a_screen_is_readable_and_names_its_units(capsys):
    show(make_plan(load_config(TINY, ["parallel.pipeline_parallel_degree=2"]), device_name="h100"))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    text = "\n".join(lines)
    for words in ("parameters", "FLOPs per token", "MiB per rank", "stage cut", "imbalance", "tokens/s", "fits:"):
        assert words in text, words


@pytest.mark.parametrize(("search", "told"), [(1, "no layout of 1 devices fits"), (None, "no layout of up to 4096")])
def test_where_nothing_fits_that_is_said(search: int | None, told: str, capsys):
    show(make_plan(load_config(TINY, [*HUGE]), device_name="h100", search=search))
    assert told in capsys.readouterr().out


def test_four_thousand_ranks_take_seconds():
    run = load_config(TINY, LARGE)
    began = time.process_time()
    plan = make_plan(run, device_name="h200")
    assert plan.estimate.layout.world_size == 4096
    assert len(plan.estimate.phases[0].stages) == 8
    assert time.process_time() - began < 20


@pytest.mark.slow
def test_four_thousand_ranks_are_searched_in_seconds(capsys):
    run = load_config(TINY, LARGE)
    began = time.process_time()
    plan = make_plan(run, device_name="h200", search=4096)
    assert time.process_time() - began < 20  # 10 s where nothing else runs
    assert all(each.layout.world_size == 4096 for each in plan.alternatives)
    seconds = [each.seconds for each in plan.alternatives]
    assert seconds == sorted(seconds) and seconds[0] < plan.estimate.seconds
    show(plan)
    told = capsys.readouterr().out
    assert "all steps" in told and "the batch (2048 rows) caps data parallelism at 2048 ranks" in " ".join(told.split())


@pytest.mark.slow
def test_what_does_not_fit_is_told_with_layouts_that_do():
    plan = make_plan(
        load_config(TINY, ["model.hidden_dim=8192", "model.ffn_dim=32768", "model.num_layers=16"]), device_name="a100"
    )
    assert not plan.estimate.fits and plan.alternatives
    assert all(each.fits for each in plan.alternatives)
    seconds = [each.seconds for each in plan.alternatives]
    assert seconds == sorted(seconds)


@pytest.mark.slow
@pytest.mark.parametrize("path", PAPERS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_published_setting_has_a_plan(path: Path):
    plan = make_plan(load_config(path, ["data.path=unused"]), device_name="h100")
    assert plan.estimate.peak_bytes > 16 * plan.num_parameters / plan.estimate.layout.world_size
    assert 0 < plan.estimate.phases[0].mfu < PRODUCT_SHARE


def test_a_profile_allocates_nothing():
    """64 GiB of activations of one layer would be noticed."""
    run = load_config(TINY, [*LARGE, "phases.0.sequence_length=65536"])
    from hierlm.plan.layer_memory import Setting

    found = profile(Setting(run.model, run.phases[0], 64, 1, "none", bf16=True, on_gpu=True))
    assert sum(layer.kept for layer in found.layers) > 2**36
