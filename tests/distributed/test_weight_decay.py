"""Weight decay reaches the same parameters in every layout, and a checkpoint that was grouped otherwise goes on."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from hierlm.config.load import load_config
from hierlm.run_dir import RunDir
from launcher.prepare_run import prepare_run
from tests.distributed.spawn import run_ranks

SMALL = ["model.hidden_dim=16", "model.num_heads=2", "model.ffn_dim=32", "model.vocab_size=64"]
XL = [*SMALL, "model.num_layers=4", "model.share_position_biases=true", "model.memory_length=8"]
SHORT = ["phases.0.sequence_length=16", "phases.0.global_batch_size=4", "parallel.micro_batch_size=1"]
SPARED = re.compile(r".*(\.bias|_bias\.weight|norm\.weight|\.null)")


def layout(dp: int, tp: int, pp: int, zero: int) -> list[str]:
    degrees = {"data": dp, "tensor": tp, "pipeline": pp}
    words = [f"parallel.{axis}_parallel_degree={degree}" for axis, degree in degrees.items()]
    return [*words, f"parallel.zero_stage={zero}", f"train.precision={'bf16' if zero == 3 else 'fp32'}"]


def names_by_decay(arch: str, overrides: list[str]) -> list[tuple[float, list[str]]]:
    """On one rank: the weight decay of each of the engine's groups, and what is in it."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    config = load_config(f"configs/tiny/{arch}.yaml", overrides)
    engine = Engine(config, process=start_processes())
    names = engine._universal_info["optimizer_parameter_names"]
    groups = engine._engine.optimizer.param_groups
    return [(group["weight_decay"], each) for group, each in zip(groups, names, strict=True)]


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("arch", "model", "where"),
    [
        pytest.param("transformer_xl", XL, (1, 2, 2, 1), id="tied-tp2-pp2"),
        pytest.param("transformer_xl", XL, (2, 1, 1, 3), id="tied-zero3", marks=pytest.mark.slow),
        pytest.param("dynamic_pooling", SMALL[:3], (1, 2, 1, 0), id="pooling-tp2", marks=pytest.mark.slow),
    ],
)
def test_decay_reaches_in_a_layout_what_it_reaches_on_one_process(arch: str, model: list[str], where: Any) -> None:
    found: dict[float, set[str]] = {}
    for rank in run_ranks(names_by_decay, where[0] * where[1] * where[2], arch, [*model, *SHORT, *layout(*where)]):
        for decay, names in rank:
            found.setdefault(decay, set()).update(names)
    assert set(found) == {0.0, 0.1}
    assert any("position_bias" in name for name in found[0.0])
    assert {name for name in found[0.1] if SPARED.fullmatch(name)} == set()
    assert {name for name in found[0.0] if not SPARED.fullmatch(name)} == set()


def attempt(run_dir: str, decays_by_shape: bool) -> str:
    """Train to the end as this version does, or with the groups of 0.1; what the console said."""
    from hierlm.parallel import build
    from hierlm.train.record.console import Console
    from hierlm.train.run import run

    if decays_by_shape:
        build.canonical_kinds = kinds_by_shape
    said = io.StringIO()
    assert run(RunDir(Path(run_dir)), console=Console(said)) == 0
    return said.getvalue()


def kinds_by_shape(config: Any) -> dict[str, str]:
    """What 0.1 took parameters for: u and v, stored as columns, for matrices."""
    import torch

    from hierlm.models.assembly import LanguageModel

    with torch.device("meta"):
        named = dict(LanguageModel(config, seed=0).named_parameters())
    return {name: "matrix" if parameter.dim() >= 2 else "vector" for name, parameter in named.items()}


@pytest.mark.distributed
@pytest.mark.parametrize(
    "zero",
    [*(pytest.param(stage, marks=pytest.mark.slow) for stage in (1, 3)), pytest.param(0, marks=pytest.mark.matrix)],
)
def test_a_checkpoint_that_decayed_u_and_v_goes_on_and_says_that_it_is_grouped_anew(
    zero: int, tiny_dataset: Path, tmp_path: Path
) -> None:
    """Without decay the groups do not matter, so the losses are those of a run that was grouped as now all along."""
    words = [*XL, *SHORT, *layout(1, 1, 1, zero), "model.vocab_size=256", "optim.weight_decay=0", "tracking.uri=none"]
    words += [
        "phases.0.learning_rate={peak: 0.01, decay: constant, warmup: {steps: 1}}",
        "train.log_every.steps=1",
        "train.eval_rows=4",
    ]

    def losses(name: str, *, old_until: int | None, until: int) -> tuple[list[float], str]:
        for end, is_old in ((old_until, True), (until, False)):
            if end is not None:
                own = [f"data={{path: '{tiny_dataset}'}}", f"run_root={tmp_path}", f"name={name}"]
                config = load_config(
                    "configs/tiny/transformer_xl.yaml", [*words, *own, f"phases.0.duration.steps={end}"]
                )
                run_dir = prepare_run(config, command_line=[]).run_dir
                said = run_ranks(attempt, 1, str(run_dir.path), is_old)[0]
        records = map(json.loads, run_dir.metrics.read_text().splitlines())
        return [record["loss"] for record in records if record["kind"] == "train"], said

    whole, _ = losses("whole", old_until=None, until=6)
    parted, said = losses("parted", old_until=3, until=6)
    assert "converting step 3: its parameters were grouped otherwise" in said
    assert parted == pytest.approx(whole, rel=1e-6 if zero < 3 else 1e-3)
    assert len(set(whole)) == 6
