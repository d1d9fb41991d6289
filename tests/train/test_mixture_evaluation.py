"""Every source is evaluated; the headline is their weighted mean, in whatever order they are named."""

import math
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.read.loader import TrainRows, open_split
from hierlm.bits import bits
from hierlm.config.load import load_config
from hierlm.phases.timeline import Timeline
from hierlm.train.evaluation import Evaluation, Share
from hierlm.train.mixture_evaluation import MixtureEvaluation, with_headline
from hierlm.train.step_rows import request_of, units_of_step
from tests.data_pipeline.making import prepared
from tests.train.test_evaluation import Recording

T = 16


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two datasets of one tokenizer with other bytes per token, and one without a valid split."""
    folder = tmp_path_factory.mktemp("sources")
    words, digits = b"some words are said again and again\n" * 300, b"3141592653589793\n2718281828459045\n" * 150
    model: dict[str, Any] = {"tokenizer": "sentencepiece", "vocab_size": 280, "workers": 1}
    prepared(folder / "words", words, splits="valid=0.2", **model)
    same: dict[str, Any] = {
        "tokenizer": "sentencepiece",
        "tokenizer_model": folder / "words" / "tokenizer.model",
        "workers": 1,
    }
    prepared(folder / "digits", digits, splits="valid=0.2", **same)
    prepared(folder / "whole", digits, **same)
    return {path.name: path for path in folder.iterdir() if path.is_dir()}


def mixture(folders: dict[str, Path], *names: str, share: Share | None = None) -> MixtureEvaluation:
    def evaluation(name: str) -> Evaluation | None:
        if name == "whole":
            return None
        split = open_split(folders[name], "valid")
        return Evaluation(split, score=Recording(), rows_per_pass=4, share=share or Share())

    return MixtureEvaluation({name: evaluation(name) for name in names})


def run(folders: dict[str, Path], weights: dict[str, float]) -> dict[str, Any]:
    found = mixture(folders, *weights).run(weights=list(weights.values()), sequence_length=T, max_rows=None)
    assert found is not None
    return found


def test_two_sources_in_either_order_have_equal_headlines_to_the_last_digit(folders: dict[str, Path]) -> None:
    there, back = run(folders, {"words": 0.7, "digits": 0.3}), run(folders, {"digits": 0.3, "words": 0.7})
    assert there == back
    assert there["sources"]["words"]["bits_per_byte"] != there["sources"]["digits"]["bits_per_byte"]


numbers = st.floats(0, 20)
sources = st.lists(st.tuples(st.floats(1e-3, 10), numbers, numbers), min_size=1, max_size=4)


@given(sources)
def test_the_headline_is_the_weighted_mean_whatever_the_order(drawn: list[tuple[float, float, float]]) -> None:
    weights = {str(place): weight for place, (weight, _, _) in enumerate(drawn)}
    measured = {
        str(p): {"loss": x, "perplexity": 1.0, "bits_per_byte": y, "tokens": 3} for p, (_, x, y) in enumerate(drawn)
    }
    told = [
        with_headline({name: measured[name] for name in order}, weights={name: weights[name] for name in order})
        for order in permutations(weights)
    ]
    assert all(each == told[0] for each in told)
    total = sum(weights.values())
    assert told[0]["loss"] == pytest.approx(sum(w * x for w, x, _ in drawn) / total)
    assert told[0]["bits_per_byte"] == pytest.approx(sum(w * y for w, _, y in drawn) / total)
    assert told[0]["perplexity"] == math.exp(told[0]["loss"])
    assert told[0]["tokens"] == 3 * len(drawn)


def test_a_source_of_weight_zero_is_told_and_has_no_part(folders: dict[str, Path]) -> None:
    found, alone = run(folders, {"words": 0.0, "digits": 0.3}), run(folders, {"digits": 1.0})
    assert "sources" not in alone
    assert {key: found[key] for key in alone if key != "tokens"} == {k: v for k, v in alone.items() if k != "tokens"}
    assert found["sources"]["words"]["weight"] == 0
    broken = {"words": {"loss": math.inf, "tokens": 1}, "digits": {"loss": 2.0, "tokens": 1}}
    assert with_headline(broken, weights={"words": 0.0, "digits": 2.0})["loss"] == 2.0


def test_a_source_without_the_split_is_left_out_of_the_mean(folders: dict[str, Path]) -> None:
    found = run(folders, {"words": 0.2, "whole": 0.6, "digits": 0.2})
    both = run(folders, {"words": 1.0, "digits": 1.0})
    assert found == both and list(found["sources"]) == ["words", "digits"]


@pytest.mark.parametrize("before", [1, 25])
def test_a_stop_in_any_source_gives_no_headline(folders: dict[str, Path], before: int) -> None:
    answers = iter([False] * before + [True] * 999)
    found = mixture(folders, "words", "digits", share=Share(stopped=lambda: next(answers)))
    assert found.run(weights=(1, 1), sequence_length=T, max_rows=None) is None


PHASES = (
    "[{name: a, duration: {steps: 3}, sequence_length: 8, global_batch_size: 6, learning_rate: {peak: 0.1}},"
    " {name: b, data_weights: [0, 1]}, {name: c, data_weights: [1, 0]}]"
)


@pytest.mark.parametrize("lanes", [False, True])
def test_bits_per_byte_of_a_step_are_by_the_bytes_of_the_sources_it_drew(folders: dict[str, Path], lanes: bool) -> None:
    paths = [str(folders[name]) for name in ("words", "digits")]
    data = f"data={{sources: [{{path: '{paths[0]}', weight: 2}}, {{path: '{paths[1]}'}}]}}"
    config = load_config("configs/tiny/transformer.yaml", [data, f"phases={PHASES}"])
    rows = TrainRows(config.data.weighted_sources, seed=config.seed)
    base: Any = SimpleNamespace(config=config, timeline=Timeline(config.phases, contiguous_lanes=lanes), rows=rows)
    words, digits = (split.source_bytes / split.num_tokens for split in rows.splits)
    seen = set()
    for step in range(9):
        moment = base.timeline.at(step)
        where = rows._order.rows(request_of(base, moment, rows=range(6)))
        drawn = [int((where.sources == source).sum()) for source in (0, 1)]
        seen.add(tuple(drawn))
        bytes_per_token = (drawn[0] * words + drawn[1] * digits) / 6
        told = units_of_step(base, 2.5, moment)["bits_per_byte"]
        assert told == pytest.approx(2.5 / math.log(2) / bytes_per_token, rel=1e-12)
    assert {(0, 6), (6, 0)} < seen


def test_of_one_source_the_bits_are_what_its_split_says(folders: dict[str, Path]) -> None:
    config = load_config("configs/tiny/transformer.yaml", [f"data.path={folders['digits']}"])
    rows = TrainRows(config.data.weighted_sources, seed=1)
    base: Any = SimpleNamespace(config=config, timeline=Timeline(config.phases), rows=rows)
    expected = bits(2.5, tokens_per_byte=rows.splits[0].tokens_per_byte)
    assert units_of_step(base, 2.5, base.timeline.at(3)) == expected


def test_what_layers_report_of_every_source_has_a_weighted_mean_too(folders: dict[str, Path]) -> None:
    numbers = iter([{"loss/gate": 1.0, "rate": 0.5}, {"loss/gate": 3.0, "rate": 0.1, "of_one": 7.0}])
    share = Share(reports=lambda loss: {**next(numbers), "loss/total": loss + 1})
    found = mixture(folders, "words", "digits", share=share).run(weights=[3, 1], sequence_length=T, max_rows=None)
    assert found is not None and found["loss/gate"] == 1.5 and found["rate"] == pytest.approx(0.4)
    assert found["loss/total"] == pytest.approx(found["loss"] + 1)
    assert found["sources"]["digits"]["of_one"] == 7.0 and "of_one" not in found
