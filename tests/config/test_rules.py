from pathlib import Path

import pytest

from hierlm.config.load import load_config
from hierlm.config.rules import problems
from hierlm.errors import UserError
from tests.config.making import config, write


def refused(tmp_path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path), overrides)
    return "\n".join(caught.value.problems)


def test_a_good_config_has_no_conflicts(tmp_path: Path) -> None:
    assert problems(config(tmp_path)) == []


def test_problems_are_given_without_a_file_too(tmp_path: Path) -> None:
    loaded = config(tmp_path)
    broken = loaded.model_copy(update={"parallel": loaded.parallel.model_copy(update={"data_parallel_degree": 3})})
    assert problems(broken)[0].startswith("phases.0.global_batch_size: given 8")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["parallel.data_parallel_degree=3"], "phases.0.global_batch_size: given 8, allowed: a multiple of 3"),
        (
            ["parallel.data_parallel_degree=2", "parallel.micro_batch_size=3"],
            "a multiple of 6 (= parallel.data_parallel_degree 2 x parallel.micro_batch_size 3), nearest: 6 or 12",
        ),
        (["phases.1.global_batch_size=7", "parallel.data_parallel_degree=2"], "phases.1.global_batch_size: given 7"),
        (["parallel.tensor_parallel_degree=3"], "allowed: a divisor of model.num_heads 4 (1, 2, 4)"),
        (["parallel.pipeline_parallel_degree=6"], "parallel.pipeline_parallel_degree: given 6, allowed: 1 to 5"),
        (["parallel.offload=optimizer", "parallel.zero_stage=0"], "parallel.offload: given optimizer with"),
        (["parallel.offload=parameters", "parallel.zero_stage=2"], "allowed from stage 3 on"),
        (
            ["parallel.offload=optimizer", "parallel.pipeline_parallel_degree=2"],
            "parallel.offload: given optimizer with parallel.pipeline_parallel_degree 2, allowed: none",
        ),
        (["parallel.sequence_parallel=true"], "given true with parallel.tensor_parallel_degree 1, allowed: false"),
        (
            ["parallel.pipeline_parallel_degree=2", "parallel.zero_stage=3"],
            "allowed: 0 or 1, because a stage sums whole gradients",
        ),
        (["parallel.stage_cut=[1, 2]", "parallel.pipeline_parallel_degree=2"], "parallel.stage_cut: given [1, 2]"),
        (["parallel.stage_cut=[2, 2]", "parallel.pipeline_parallel_degree=3"], "allowed: growing layer numbers"),
        (["parallel.zero_stage=0", "parallel.data_parallel_degree=2"], "train.precision bf16"),
        (
            ["parallel.reduce_precision=bf16", "train.precision=fp32"],
            "parallel.reduce_precision: given bf16 with train.precision fp32",
        ),
        (["phases.0.duration.steps=0", "phases.1.duration.steps=0"], "phases.0.duration: given 0 steps in every phase"),
        (
            ["phases.0.learning_rate.warmup.steps=16"],
            "phases.0.learning_rate.warmup: given 16 steps, allowed: at most 15",
        ),
        (
            ["phases.1.learning_rate={peak: 1, warmup: {steps: 6}}"],
            "phases.1.learning_rate.warmup: given 6 steps, allowed: at most 5",
        ),
        (
            ["phases.0.learning_rate.warmup.tokens=10241"],  # 10 x 512 and 5 x 1024
            "phases.0.learning_rate.warmup: given 10241 tokens, allowed: at most 10240, the tokens of phases",
        ),
        (["checkpoint.every.steps=0"], "checkpoint.every: given {steps: 0}"),
        (["train.log_every.tokens=0"], "train.log_every: given {tokens: 0}"),
        (["train.profile.steps=2..21"], "train.profile.steps: given 2..21, allowed: steps 1 to 15"),
        (["train.profile.steps=3..2"], 'train.profile.steps: given "3..2": steps are written FIRST..LAST'),
        (["train.profile.steps=3"], "train.profile.steps: given 3"),
        (["train.eval_every.steps=0"], "train.eval_every: given {steps: 0}"),
        (["optim.betas=[0.9, 1.0]"], "optim.betas.1: given 1.0, allowed: less than 1"),
        (["phases.1.data_weights=[1, 2]"], "phases.1.data_weights: given [1.0, 2.0] with a single data source"),
        (
            ["data={sources: [{path: a}, {path: b}]}", "phases.0.data_weights=[1, 2, 3]"],
            "phases.0.data_weights: given [1.0, 2.0, 3.0], allowed: 2 weights, one for each of data.sources",
        ),
        (["data={sources: [{path: a}, {path: b}]}", "phases.1.data_weights=[0, 0]"], "at least one of them above 0"),
        (["phases.1.name=first"], 'phases.1.name: given "first", which is the name of phases.0 too'),
    ],
)
def test_conflicts_are_refused_with_what_is_allowed(tmp_path: Path, overrides: list[str], line: str) -> None:
    assert line in refused(tmp_path, *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["parallel.tensor_parallel_degree=2", "parallel.pipeline_parallel_degree=2", "parallel.data_parallel_degree=2"],
        ["parallel.zero_stage=3", "parallel.data_parallel_degree=4"],
        ["parallel.zero_stage=0", "parallel.data_parallel_degree=2", "train.precision=fp32"],
        ["parallel.zero_stage=0"],
        ["phases.0.duration.steps=0", "phases.0.learning_rate.warmup.steps=0"],
        ["phases.0.learning_rate.warmup.steps=15"],  # the curve spans both phases
        ["phases.0.learning_rate.warmup.tokens=10240"],  # more steps of the first phase's size than there are
        ["tracking.uri=none"],
        ["data={sources: [{path: a}, {path: b}]}", "phases.1.data_weights=[0, 1]"],
        ["phases.1.trainable=['layers\\.1', 'layers\\.\\d+\\.norm']"],
    ],
)
def test_what_can_run_is_allowed(tmp_path: Path, overrides: list[str]) -> None:
    config(tmp_path, *overrides)


def test_what_an_architecture_cannot_do_on_several_ranks_is_refused_with_its_reason() -> None:
    tiny = Path(__file__).parents[2] / "configs" / "tiny" / "transformer_xl.yaml"
    with pytest.raises(UserError, match=r"tensor_parallel_degree: given 2 with model.arch transformer_xl, allowed: 1"):
        load_config(tiny, ["model.cutoffs=[10]", "parallel.tensor_parallel_degree=2"])
