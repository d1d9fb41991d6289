"""Every token of a split is scored once, with the context that was promised."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from data_pipeline.errors import DataError
from data_pipeline.read.loader import IGNORED_TARGET, open_split
from hierlm.errors import UserError
from hierlm.inference.evaluate import Reading, evaluate, headline
from hierlm.inference.load_run import LoadedRun
from hierlm.inference.remembering import Remembering
from hierlm.inference.windows import CarriedLanes, SlidingWindows
from tests.data_pipeline.making import prepared
from tests.inference.making import TEXT, dataset, loaded_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("data"), TEXT[:211])


def measured(loaded: LoadedRun, reading: Reading) -> dict[str, Any]:
    (record,) = evaluate(loaded, split="train", reading=reading)
    return record


def nats_after(loaded: LoadedRun, context: list[int], target: int) -> float:
    """Of one token after exactly this context, by a forward pass of its own."""
    with torch.no_grad():
        logits, _ = loaded.model(torch.tensor([context]))
    return float(F.cross_entropy(logits[0, -1:].float(), torch.tensor([target])))


@pytest.mark.parametrize("num_tokens", [2, 5, 16, 17, 18, 40, 211])
@pytest.mark.parametrize("stride", [1, 5, 16])
def test_every_token_is_a_target_once_and_has_its_context(tmp_path: Path, num_tokens: int, stride: int) -> None:
    split = open_split(dataset(tmp_path, TEXT[:num_tokens]), "train")
    windows = SlidingWindows(split, sequence_length=16, stride=stride, windows_per_pass=3)
    text, scored = list(split.read(0, num_tokens)), []
    passes = list(windows)
    assert len(passes) == len(windows)
    rows = [row for one in passes for row in zip(one.tokens.tolist(), one.targets.tolist(), strict=True)]
    assert len(rows) == windows.num_windows
    for number, (tokens, targets) in enumerate(rows):
        for place, target in enumerate(targets):
            if target == IGNORED_TARGET:
                continue
            position = number * stride + place + 1
            assert target == text[position] and tokens[: place + 1] == text[number * stride : position]
            assert place + 1 >= min(position, 16 - stride + 1)
            scored.append(position)
    assert sorted(scored) == list(range(1, num_tokens))


@pytest.mark.parametrize("arch", ["transformer", "hourglass"])
def test_a_stride_gives_the_loss_of_a_pass_per_token(tmp_path: Path, arch: str) -> None:
    loaded, text = loaded_run(arch, dataset(tmp_path, TEXT[:43])), list(TEXT[:43])
    stride, expected = 4, 0.0
    for position in range(1, 43):
        window = max(-(-(position - 16) // stride), 0) * stride
        expected += nats_after(loaded, text[window:position], text[position])
    record = measured(loaded, Reading(stride=stride))
    assert record["loss"] * record["tokens"] == pytest.approx(expected, rel=1e-5)
    assert record["tokens"] == 42


def test_a_stride_of_the_whole_row_is_the_default(data: Path) -> None:
    loaded = loaded_run("transformer", data)
    assert measured(loaded, Reading(stride=16)) == measured(loaded, Reading())


@pytest.mark.parametrize("stride", [0, 17, -3])
def test_a_stride_that_skips_or_repeats_nothing_is_refused(data: Path, stride: int) -> None:
    with pytest.raises(UserError, match=f"--stride: given {stride}, allowed 1 to the sequence length 16"):
        measured(loaded_run("transformer", data), Reading(stride=stride))


@pytest.mark.parametrize("arch", ["transformer_xl", "lstm"])
def test_a_stride_is_refused_where_memory_is_carried(data: Path, arch: str) -> None:
    with pytest.raises(UserError, match=r"--stride: .* carries its memory"):
        measured(loaded_run(arch, data), Reading(stride=4))


def test_carried_memory_makes_lanes_longer_than_rows(data: Path) -> None:
    """One LSTM lane read in rows of 16 loses exactly what the whole text in one row loses."""
    loaded, split = loaded_run("lstm", data), open_split(data, "train")
    assert len(CarriedLanes(split, sequence_length=16, num_lanes=8)) == 2
    text = torch.from_numpy(split.read(0, 33))  # 8 lanes: the first one has two rows
    with torch.no_grad():
        logits, _ = loaded.model(text[None, :-1])
    nats = F.cross_entropy(logits[0].float(), text[1:], reduction="none")
    state, found = None, []
    for one in CarriedLanes(split, sequence_length=16, num_lanes=8):
        with torch.no_grad():
            logits, state = loaded.model(one.tokens[:1], state if one.continues else None)
        found.append(F.cross_entropy(logits[0].float(), one.targets[0], reduction="none"))
    assert torch.allclose(torch.cat(found), nats, atol=1e-5)


@pytest.mark.parametrize("arch", ["transformer", "hourglass", "transformer_xl", "lstm"])
@pytest.mark.parametrize("num_tokens", [2, 9])
def test_a_split_shorter_than_a_row_is_one_pass(tmp_path: Path, arch: str, num_tokens: int) -> None:
    loaded = loaded_run(arch, dataset(tmp_path, TEXT[:num_tokens]))
    text = list(TEXT[:num_tokens])
    with torch.no_grad():
        logits, _ = loaded.model(torch.tensor([text[:-1]]))
    nats = F.cross_entropy(logits[0].float(), torch.tensor(text[1:]), reduction="none")
    record = measured(loaded, Reading())
    assert record["tokens"] == num_tokens - 1
    assert record["loss_by_position"] == pytest.approx(nats.tolist(), rel=1e-5)


def test_positions_weighted_by_their_tokens_make_up_the_loss(data: Path) -> None:
    record = measured(loaded_run("transformer", data), Reading())
    rows, rest = divmod(210, 16)
    counts = [rows + (place < rest) for place in range(16)]
    total = math.fsum(n * loss for n, loss in zip(counts, record["loss_by_position"], strict=True))
    assert total / 210 == pytest.approx(record["loss"])


def test_positions_that_only_give_context_have_no_loss(tmp_path: Path) -> None:
    record = measured(loaded_run("transformer", dataset(tmp_path, TEXT[:400])), Reading(sequence_length=32, stride=8))
    assert record["sequence_length"] == 32 and record["stride"] == 8
    assert all(loss is not None for loss in record["loss_by_position"])  # the first window scores all its places


def test_word_perplexity_spreads_the_nats_over_words(data: Path) -> None:
    record = measured(loaded_run("transformer", data), Reading())
    assert record["words"] == len(TEXT[:211].split())
    assert math.log(record["word_perplexity"]) == pytest.approx(record["loss"] * 210 / record["words"])


def test_a_dataset_without_a_word_count_has_no_word_perplexity(tmp_path: Path) -> None:
    data = dataset(tmp_path, TEXT)
    index = data / "dataset.json"
    index.write_text(json.dumps(json.loads(index.read_text(), object_hook=_without_words)))
    record = measured(loaded_run("transformer", data), Reading())
    assert record["words"] is None and record["word_perplexity"] is None


def _without_words(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "words"}


def test_a_longer_memory_reaches_the_model(data: Path) -> None:
    """With no memory each segment starts anew: the mean of all its rows alone."""
    forgetful = loaded_run("transformer_xl", data, remembering=Remembering(memory_length=0))
    alone = loaded_run("transformer_xl", data, "model.memory_length=0")
    longer = loaded_run("transformer_xl", data, remembering=Remembering(memory_length=32))
    short, same, long = (measured(loaded, Reading())["loss"] for loaded in (forgetful, alone, longer))
    assert short == same != long


def test_an_evaluation_length_of_the_config_gives_way_to_the_one_asked_for(data: Path) -> None:
    asked = loaded_run(
        "transformer_xl", data, "model.evaluation_memory_length=5", remembering=Remembering(memory_length=32)
    )
    assert measured(asked, Reading()) == measured(
        loaded_run("transformer_xl", data, "model.memory_length=32"), Reading()
    )


def test_same_length_is_that_of_the_config(data: Path) -> None:
    asked = loaded_run("transformer_xl", data, remembering=Remembering(memory_length=8, same_length=True))
    config = ("model.memory_length=8", "model.evaluation_same_length=true")
    assert measured(asked, Reading()) == measured(loaded_run("transformer_xl", data, *config), Reading())


def test_a_model_without_such_a_memory_refuses_with_all_reasons(data: Path) -> None:
    with pytest.raises(UserError) as refusal:
        loaded_run("hourglass", data, remembering=Remembering(memory_length=8, same_length=True))
    assert [problem.partition(":")[0] for problem in refusal.value.problems] == ["--memory-length", "--same-length"]


def mixture(tmp_path: Path, *names: str, weights: str = "null") -> LoadedRun:
    """A run on datasets of those names; only one has a valid split."""
    texts = {"a": TEXT[:211], "b": TEXT[211:500]}
    for name in names:
        if not (tmp_path / name).exists():
            prepared(tmp_path / name, texts[name], tokenizer="bytes", splits="valid=0.3" if name == "b" else "none")
    sources = ", ".join(f"{{path: {tmp_path / name}, weight: {'ab'.index(name) + 0.7}}}" for name in names)
    settings = [f"data={{sources: [{sources}]}}", f"phases.0.data_weights={weights}"]
    return loaded_run("transformer", tmp_path / names[0], *settings)


def test_the_headline_of_two_sources_is_the_same_in_either_order(tmp_path: Path) -> None:
    there, back = (evaluate(mixture(tmp_path, *order), split="train", reading=Reading()) for order in ("ab", "ba"))
    mean, same = headline(there), headline(back)
    assert [record["name"] for record in there] == ["a", "b"] == [source["name"] for source in mean["sources"]]
    assert {**mean, "sources": mean["sources"][::-1]} == same
    expected = (0.7 * there[0]["bits_per_byte"] + 1.7 * there[1]["bits_per_byte"]) / 2.4
    assert mean["bits_per_byte"] == pytest.approx(expected, rel=1e-12)
    assert mean["tokens"] == sum(record["tokens"] for record in there)


def test_the_headline_weighs_as_the_phase_of_the_checkpoint_does(tmp_path: Path) -> None:
    records = evaluate(mixture(tmp_path, "a", "b", weights="[0, 3]"), split="train", reading=Reading())
    assert headline(records)["loss"] == records[1]["loss"] != records[0]["loss"]


def test_a_source_without_the_split_is_named_and_left_out(tmp_path: Path) -> None:
    (record,) = evaluate(mixture(tmp_path, "a", "b"), split="valid", reading=Reading())
    assert record["name"] == "b" and record["left_out"] == [str(tmp_path / "a")]
    with pytest.raises(DataError, match=r"nothing to evaluate on: .*no split 'test'"):
        evaluate(mixture(tmp_path, "a", "b"), split="test", reading=Reading())
    with pytest.raises(DataError, match="nothing to evaluate on"):
        evaluate(mixture(tmp_path, "a", "b", weights="[1, 0]"), split="valid", reading=Reading())
