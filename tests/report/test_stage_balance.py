"""The stage table says what the cut does."""

from typing import NamedTuple

import pytest

from hierlm.costs.stage_cut import cut_by_cost, cut_by_hand
from hierlm.report.stage_balance import stage_balance
from hierlm.report.stages import stage_document, stage_note, stage_panel, stage_rows, stage_table


class Layer(NamedTuple):
    name: str
    training_flops: int
    output_bytes_per_row: int = 0


LAYERS = [Layer(f"layers.{index}.Block", flops) for index, flops in enumerate([10, 30, 10, 10])]


def test_shares_of_the_stages_are_their_layers_flops() -> None:
    balance = stage_balance(LAYERS, cut_by_hand(LAYERS, first_layers=[1], num_stages=2))
    assert [stage.flops_share for stage in balance.stages] == pytest.approx([10 / 60, 50 / 60])
    assert [(s.num_layers, s.first_layer, s.last_layer) for s in balance.stages] == [
        (1, "0.Block", "0.Block"),
        (3, "1.Block", "3.Block"),
    ]
    assert balance.imbalance == pytest.approx(50 / 30 - 1)


def test_without_traffic_the_times_imbalance_is_that_of_the_cut() -> None:
    cut = cut_by_cost(LAYERS, num_stages=2)
    balance = stage_balance(LAYERS, cut)
    assert balance.imbalance == pytest.approx(balance.time_imbalance) == pytest.approx(cut.imbalance)


def test_traffic_weighs_on_both_sides_of_a_boundary() -> None:
    layers = [layer._replace(output_bytes_per_row=5) for layer in LAYERS]
    balance = stage_balance(layers, cut_by_hand(layers, first_layers=[1], num_stages=2, flops_per_byte=1.0))
    assert [stage.time_share for stage in balance.stages] == pytest.approx([20 / 80, 60 / 80])


def test_every_stage_is_in_the_table_the_figure_and_the_document() -> None:
    balance = stage_balance(LAYERS, cut_by_hand(LAYERS, first_layers=[1, 2], num_stages=3))
    assert [row[0] for row in stage_rows(balance)] == ["stage", "0", "1", "2"]
    assert stage_table(balance).count("<tr>") == 4
    assert stage_panel(balance).figure["data"][0]["y"] == pytest.approx([100 / 6, 50, 100 / 3])
    document = stage_document(balance)
    assert sum(stage["flops_share"] for stage in document["stages"]) == pytest.approx(1)
    assert document["imbalance"] == pytest.approx(0.5)
    assert "50.0% more" in stage_note(balance)


def test_a_run_without_a_pipeline_says_so() -> None:
    assert (stage_note(None), stage_table(None), stage_document(None)) == ("one stage", "", {"num_stages": 1})
