"""A phase decides which sources its rows come from, in shuffled rows and in lanes, wherever a run resumes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_pipeline.read.cursor import Dealing
from data_pipeline.read.loader import TrainRows
from hierlm.config.load import load_config
from hierlm.phases.timeline import Timeline
from hierlm.train.step_rows import read_ahead
from tests.data_pipeline.making import prepared

STEPS, ROWS = 4, 8
PHASES = (
    f"[{{name: a, duration: {{steps: {STEPS}}}, sequence_length: 8, global_batch_size: {ROWS}, data_weights: [1, 0],"
    f" learning_rate: {{peak: 0.1}}}}, {{name: b, data_weights: [0, 2]}}, {{name: own, data_weights: null}}]"
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A dataset of the letter a, and one of the letter b."""
    folder = tmp_path_factory.mktemp("sources")
    for letter in "ab":
        prepared(folder / letter, letter.encode() * 4000)
    return [str(folder / letter) for letter in "ab"]


def letters(
    sources: list[str],
    *,
    lanes: bool,
    first_step: int = 0,
    dealing: Dealing = "fingerprint",
    weights: tuple[int, int] = (3, 1),
    phases: str = PHASES,
) -> list[list[str]]:
    """The letter of each row of each step, as the training loop is given them."""
    weighted = [f"{{path: {path}, weight: {weight}}}" for path, weight in zip(sources, weights, strict=True)]
    data = f"data={{sources: [{', '.join(weighted)}], prefetch_batches: 0}}"
    config = load_config("configs/tiny/transformer.yaml", [data, f"phases={phases}"])
    timeline = Timeline(config.phases, contiguous_lanes=lanes)
    rows = TrainRows(config.data.weighted_sources, seed=config.seed)
    rows.deal_by(dealing)
    alone: Any = SimpleNamespace(local_rows=range, process=SimpleNamespace(device=torch.device("cpu")))
    base: Any = SimpleNamespace(config=config, timeline=timeline, rows=rows, engine=alone)
    batches = read_ahead(base, first_step=first_step)
    return [[chr(int(row[0])) for row in next(batches).tokens] for _ in range(first_step, timeline.num_steps)]


@pytest.mark.parametrize("lanes", [False, True])
def test_rows_come_from_the_sources_of_their_phase(lanes: bool, sources: list[str]) -> None:
    found = letters(sources, lanes=lanes)
    assert found[:STEPS] == [["a"] * ROWS] * STEPS
    assert found[STEPS : 2 * STEPS] == [["b"] * ROWS] * STEPS
    own = [letter for step in found[2 * STEPS :] for letter in step]
    assert {"a", "b"} == set(own)
    if lanes:
        assert own.count("a") == STEPS * 6  # weights 3 to 1, at least one lane each


@pytest.mark.parametrize("lanes", [False, True])
def test_a_run_resumed_in_a_later_phase_reads_the_same_rows(lanes: bool, sources: list[str]) -> None:
    whole = letters(sources, lanes=lanes)
    for step in (STEPS - 1, STEPS, STEPS + 1, 2 * STEPS + 1):
        assert letters(sources, lanes=lanes, first_step=step) == whole[step:]


@pytest.mark.parametrize("lanes", [False, True])
@pytest.mark.parametrize("weights", [(3, 1), (1, 1)])
def test_training_draws_the_same_rows_in_whatever_order_sources_are_named(
    lanes: bool, weights: tuple[int, int], sources: list[str]
) -> None:
    there = letters(sources, lanes=lanes, weights=weights)
    turned = PHASES.replace("[1, 0]", "[0, 1]").replace("[0, 2]", "[2, 0]")
    back = letters(sources[::-1], lanes=lanes, weights=weights[::-1], phases=turned)
    assert back == there


def test_a_run_begun_when_sources_were_dealt_by_place_goes_on_so(sources: list[str]) -> None:
    """Of equal weights, the places of the two letters are those of the list, whatever they hold."""
    own = PHASES.replace("[1, 0]", "null").replace("[0, 2]", "null")
    draw: dict[str, Any] = {"lanes": False, "weights": (1, 1), "phases": own, "dealing": "place"}
    there, back = letters(sources, **draw), letters(sources[::-1], **draw)
    swapped = [["ba"["ab".index(letter)] for letter in step] for step in back]
    assert there == swapped != back
    by_content = {letters_of(order, draw) for order in (tuple(sources), tuple(sources[::-1]))}
    assert len(by_content) == 1 and by_content <= {str(there), str(back)}  # one of the two lists is as it was


def letters_of(order: tuple[str, ...], draw: dict[str, Any]) -> str:
    return str(letters(list(order), **{**draw, "dealing": "fingerprint"}))
