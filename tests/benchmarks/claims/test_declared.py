"""The declared runs can be run, and are what their claims say they are."""

from functools import cache
from typing import Any

import pytest

from hierlm.config.load import load_config
from hierlm.costs.flops import flops_per_token
from hierlm.errors import UserError
from hierlm.train.record.summary import count_parameters
from launcher.submit.sweep import load_members
from tests.benchmarks.claims import hourglass, lmu, multi_scale, skip_cross_head
from tests.benchmarks.claims.catalogue import CLAIMS, chosen
from tests.benchmarks.claims.corpora import DATASETS, prepare_command
from tests.benchmarks.claims.declared import Arm, Run, rehearsed
from tests.conftest import ROOT

RUNS = [run for claim in CLAIMS for run in claim.runs]
BY_NAME = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)


@cache
def config_of(run: Run) -> Any:
    return run.load()


def first_config(arm: Arm) -> Any:
    return config_of(arm.runs[0])


def total_flops(arm: Arm) -> float:
    config = first_config(arm)
    return sum(
        phase.num_steps * phase.tokens_per_step * flops_per_token(config.model, phase.sequence_length)
        for phase in config.phases
    )


def total_tokens(arm: Arm) -> int:
    return sum(phase.num_steps * phase.tokens_per_step for phase in first_config(arm).phases)


def num_parameters(arm: Arm) -> int:
    return count_parameters(first_config(arm).model)[0]


@BY_NAME
def test_runs_of_a_claim_read_its_corpus_into_its_experiment_on_one_process(claim):
    for run in claim.runs:
        config = config_of(run)
        assert config.name == run.name and config.seed == run.seed
        assert [source.path for source in config.data.weighted_sources] == [str(DATASETS / claim.corpus.name)]
        assert config.tracking.experiment == f"claim-{claim.name}"
        assert config.parallel.world_size == 1


def test_no_two_runs_share_a_directory():
    assert len({run.name for run in RUNS}) == len(RUNS)


@BY_NAME
def test_runs_of_one_arm_differ_in_nothing_but_the_seed(claim):
    for arm in claim.arms:
        first, *others = map(config_of, arm.runs)
        for other in others:
            assert other.model_copy(update={"seed": first.seed, "name": first.name}) == first


@BY_NAME
def test_a_sweep_over_the_seeds_on_a_cluster_makes_the_same_runs(claim):
    for arm in claim.arms:
        words = arm.submit_command.split()[2:]
        path, overrides, axis = words[0], words[1 : words.index("--array")], words[-1]
        _, members = load_members(ROOT / path, overrides, [axis])
        have = {m.name: m for m in members}
        for run in arm.runs:
            own = config_of(run)
            size = {"sweep_size": have[run.name].tracking.sweep_size}
            assert own.model_copy(update={"tracking": own.tracking.model_copy(update=size)}) == have[run.name]


@BY_NAME
def test_a_rehearsal_is_the_same_model_for_a_few_steps_elsewhere(claim, tmp_path):
    for run in claim.runs:
        config = rehearsed(run, steps=3, root=tmp_path).load()
        assert config.model == config_of(run).model
        assert [phase.num_steps for phase in config.phases] == [3] * len(config.phases)
        assert config.run_root == str(tmp_path) and str(tmp_path) in config.tracking.uri


def test_the_data_folder_is_where_the_variable_says():
    command = prepare_command(multi_scale.CLAIM.corpus, data="/corpora")
    assert "/corpora/eltec-eng/train.txt.xz" in command
    assert "valid=/corpora/eltec-eng/valid.txt.xz,test=/corpora/eltec-eng/test.txt.xz" in command


def test_an_unknown_claim_is_refused_with_those_there_are():
    with pytest.raises(UserError, match="given lstm, allowed: hourglass, multi-scale, skip-cross-head, lmu"):
        chosen(["lstm"])


# What each claim compares


def test_hourglass_and_transformer_have_equal_flops_within_two_percent():
    vanilla, equal, _ = hourglass.ARMS
    assert total_flops(equal) == pytest.approx(total_flops(vanilla), rel=0.02)


def test_hourglass_trains_on_at_least_1024_bytes_with_three_seeds():
    for arm in hourglass.ARMS:
        assert len(arm.seeds) >= 3
        assert all(phase.sequence_length >= 1024 for phase in first_config(arm).phases)


def test_hourglass_is_a_row_of_table_1_but_for_its_width():
    for arm in hourglass.ARMS:
        row = load_config(ROOT / "configs/papers/hourglass" / f"enwik8-table1-{arm.config.rpartition('scaled-')[2]}")
        ours = first_config(arm).model.model_dump()
        differ = {key for key, value in row.model.model_dump().items() if ours[key] != value}
        assert differ <= {"hidden_dim", "ffn_dim", "num_heads", "dropout", "positions"}


def test_multi_scale_models_have_equal_width_data_and_tokens_and_thirty_layers_against_fourteen():
    models = [first_config(arm).model for arm in multi_scale.TRAINED]
    assert len({total_tokens(arm) for arm in multi_scale.TRAINED}) == 1
    assert len({(model.hidden_dim, model.ffn_dim, model.vocab_size) for model in models}) == 1
    blocks = [model.num_layers if hasattr(model, "num_layers") else model.num_blocks for model in models]
    assert blocks == [14, 30, 30, 30]


def test_the_full_recipe_has_about_a_fifth_fewer_parameters_than_transformer_xl():
    ratio = num_parameters(skip_cross_head.FULL) / num_parameters(skip_cross_head.BASELINE)
    assert ratio == pytest.approx(0.8, abs=0.02)


def test_skip_cross_head_arms_see_the_same_tokens_and_those_of_eight_layers_have_equal_parameters():
    assert len({total_tokens(arm) for arm in skip_cross_head.ARMS}) == 1
    eight = [arm for arm in skip_cross_head.ARMS if arm not in (skip_cross_head.BASELINE, skip_cross_head.LARGE)]
    assert len({num_parameters(arm) for arm in eight}) == 1


def test_every_ingredient_is_alone_in_its_ablation():
    switches = {}
    for arm in (skip_cross_head.SKIP, skip_cross_head.CROSS, skip_cross_head.PHASES, skip_cross_head.FULL):
        config = first_config(arm)
        crosses = config.model.cross_head_probability > 0
        switches[arm.name] = ([phase.model["layer_skip"] for phase in config.phases], crosses)
    assert switches == {
        "skip-only-8": (["ramp"], False),
        "cross-head-only-8": (["off"], True),
        "two-phase-only-8": (["ramp", "off"], False),
        "skip-two-phase-8": (["ramp", "off"], True),
    }


def test_lmu_sizes_are_equal_across_architectures_within_a_tenth_and_below_a_million():
    assert len(lmu.WIDTHS) >= 3
    for width in lmu.WIDTHS:
        arms = [f"{kind}-{width}" for kind in lmu.KINDS]
        sizes = [count_parameters(first_config(lmu.CLAIM.arm(arm)).model)[1] for arm in arms]
        assert max(sizes) < 1.1 * min(sizes) and max(sizes) < 1_000_000
        assert min(sizes) == pytest.approx(24 * width**2, rel=0.1)


def test_lmu_runs_see_equal_tokens_but_for_the_long_ones():
    tokens = {arm.name: total_tokens(arm) for arm in lmu.ARMS}
    short = {count for name, count in tokens.items() if not name.endswith("-long")}
    long = {count for name, count in tokens.items() if name.endswith("-long")}
    assert len(short) == 1 and long == {lmu.LONG_TIMES * count for count in short}
