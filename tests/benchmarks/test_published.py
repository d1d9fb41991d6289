"""The plan beside published speeds: within its claims where the table is at hand, of counts that hold anywhere."""

import pytest

from hierlm.parallel.degrees import Degrees
from hierlm.plan.device_file import shipped
from hierlm.plan.products import filled_flops
from tests.benchmarks.bench_published import NO_TABLE, TABLE, holds, lines
from tests.benchmarks.published.layer_counts import block, num_parameters
from tests.benchmarks.published.predict import predict
from tests.benchmarks.published.rows import Row, read_rows
from tests.benchmarks.published.systems import stretches_of, system_of

MEGATRON = Row(
    source="arXiv, made up", model="175B", num_layers=96, hidden_dim=12288, num_heads=96, ffn_dim=4 * 12288,
    vocab_size=51200, sequence_length=2048, device="a100", degrees=Degrees(tensor=8, pipeline=8), zero_stage=0,
    micro_batch=1, global_batch=64, recompute="full", sequence_parallel=False, precision="fp16", step_seconds=1.0,
)  # fmt: skip
FSDP = MEGATRON._replace(
    source="llm-foundry, made up", degrees=Degrees(data=64), zero_stage=3, recompute="none", precision="bf16"
)


def test_the_claims_hold_on_the_table() -> None:
    if not TABLE.exists():
        pytest.skip(NO_TABLE)
    found = [(row, predict(row)) for row in read_rows(TABLE)]
    assert holds(found), "\n".join(lines(found))


@pytest.mark.parametrize("rows", [1, 4])
def test_products_of_a_block_are_those_of_the_formula(rows: int) -> None:
    """2104.04473, appendix: 24 n D^2 + 4 n T D there; idle processors add to it, by less than a fifth."""
    found = block(MEGATRON, system_of(MEGATRON), shipped("a100"), rows=rows)
    n, width = rows * 2048, 12288
    there = (24 * n * width**2 + 4 * n * 2048 * width) / 8
    assert there <= found.forward.flops < 1.2 * there
    assert 2 * there <= found.backward.flops < 1.2 * 2 * there


def test_parameters_are_those_that_were_published() -> None:
    assert num_parameters(MEGATRON) == pytest.approx(174.6e9, rel=1e-3)


def test_idle_processors_cost_as_much_as_busy_ones() -> None:
    full, one_more = (filled_flops(256 * rows, 1024, 128 * 108, processors=108) for rows in (4, 5))
    assert full == 2 * 256 * 4 * 1024 * 128 * 108
    two_small_tiles = 2 * 256 * 64 * 128 * 108 / (2 * 0.9)
    assert filled_flops(256, 64, 128, processors=108) == pytest.approx(two_small_tiles)
    assert one_more == 5 / 4 * full


def test_less_to_do_takes_less_time() -> None:
    full, core, none = (
        predict(MEGATRON._replace(recompute=recompute)).time.total for recompute in ("full", "core", "none")
    )
    assert none < core < full
    assert predict(MEGATRON._replace(recompute="core", sequence_parallel=True)).time.total < core


def test_more_interleaving_is_a_shorter_bubble() -> None:
    named = "arXiv (interleaved pipeline for 175B and 530B)"
    assert stretches_of(MEGATRON._replace(source=named)) == (3,)
    assert stretches_of(MEGATRON._replace(source=named, model="1T")) == (1,)
    assert predict(MEGATRON._replace(source=named)).time.bubble < predict(MEGATRON._replace(
        source=named, model="1T")).time.bubble  # fmt: skip


def test_more_cards_are_no_faster_each_and_a_slower_fabric_shows() -> None:
    few, many = (predict(FSDP._replace(degrees=Degrees(data=cards), global_batch=cards)).time for cards in (8, 512))
    assert many.data_messages + many.hidden_messages > few.data_messages + few.hidden_messages


def test_a_row_of_which_nothing_is_known_is_refused() -> None:
    with pytest.raises(ValueError, match="fp8"):
        predict(FSDP._replace(precision="fp8"))
    with pytest.raises(ValueError, match="nothing is known"):
        predict(FSDP._replace(source="somewhere"))


def test_a_device_that_is_faster_is_faster() -> None:

    assert predict(FSDP._replace(device="h100")).time.total < predict(FSDP).time.total
