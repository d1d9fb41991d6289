"""Transformer-XL and what is built on it drop what the authors' code drops: its ends too, and the memory of RMT."""

from typing import Any

import pytest
import torch

from hierlm import models
from hierlm.nn.basic.dropout import Dropout, sites
from hierlm.nn.layer import StepContext
from hierlm.nn.stream import Stream
from tests.models.zoo import tiny_part, tokens

XL = ["transformer_xl", "skip_cross_head_xl", "recurrent_memory_transformer"]


def before_head(name: str, **fields: Any) -> tuple[torch.Tensor, Any]:
    """(what the head reads in a training pass, the memories after it)."""
    model = models.from_config({"model": tiny_part(name) | fields}, seed=1).train()
    for layer in model.layers:
        layer.begin_step(StepContext(0, 0, {"dropout": fields["dropout"]}))
    stream, kept = Stream((tokens(8),)), []
    for layer, memory in zip(list(model.layers)[:-1], model.initial_state(stream.hidden), strict=False):
        stream, updated = layer(stream, memory)
        kept.append(updated)
    return stream.hidden, kept


def share_of_zeros(x: torch.Tensor) -> float:
    return float((x == 0).float().mean())


@pytest.mark.parametrize("name", XL)
@pytest.mark.parametrize("pre_norm", [False, True])
def test_what_the_head_reads_is_dropped(name: str, pre_norm: bool) -> None:
    hidden, _ = before_head(name, dropout=0.5, pre_norm=pre_norm)
    assert 0.4 < share_of_zeros(hidden) < 0.6
    hidden, _ = before_head(name, dropout=0.5, embedding_dropout=0.0, pre_norm=pre_norm)
    assert share_of_zeros(hidden) == 0


def skips(layer: Any, context: StepContext) -> bool:
    layer.begin_step(context)
    return bool(layer.is_skipped)


def test_a_last_layer_that_is_skipped_drops_too() -> None:
    skipping = {"layer_skip": "uniform", "skip_probability": 0.99}
    model = models.from_config({"model": tiny_part("skip_cross_head_xl") | skipping | {"dropout": 0.5}}, seed=1).train()
    last = model.layers[-2]
    assert any(skips(last, StepContext(step, 0, skipping)) for step in range(9))
    assert 0.4 < share_of_zeros(last(Stream((torch.ones(2, 8, 64),)))[0].hidden) < 0.6


def test_a_block_s_memory_is_what_it_was_given_not_what_it_leaves() -> None:
    model = models.from_config({"model": tiny_part("transformer_xl") | {"dropout": 0.5}}, seed=1).train()
    last, x = model.layers[-2], torch.randn(2, 8, 64)
    _, memory = last(Stream((x,)), last.initial_memory(2, device=x.device, dtype=x.dtype))
    assert any(tensor.shape[-1] == 64 and torch.equal(tensor[:, -8:], x) for tensor in memory)


def test_memory_tokens_are_dropped_when_read_written_and_passed_on() -> None:
    model = models.from_config({"model": tiny_part("recurrent_memory_transformer") | {"dropout": 0.5}}, seed=1).train()
    cell, seen = model.layers[0], []
    cell.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0]))
    memory = torch.ones(2, 4, 64)
    _, written = cell._segment(tokens(8), memory)
    read, write = seen[0][:, :4], seen[0][:, -4:]
    assert 0.4 < share_of_zeros(read) < 0.6 and 0.4 < share_of_zeros(write) < 0.6
    assert not torch.equal(read, write)
    assert 0.4 < share_of_zeros(written) < 0.6


@pytest.mark.parametrize("name", XL)
def test_every_site_of_the_reference_is_there(name: str) -> None:
    """Embedding, waves, attention, what a sublayer adds, hidden units, output: by its switch, those of one block."""
    model = models.from_config({"model": tiny_part(name) | {"num_layers": 1}}, seed=1)
    found = [path.rpartition(".")[0] + ":" + m.switch for path, m in model.named_modules() if isinstance(m, Dropout)]
    assert len(found) == len(sites(model)) == {"recurrent_memory_transformer": 7}.get(name, 6)
    assert sum(where.endswith("attention_dropout") for where in found) == 1
