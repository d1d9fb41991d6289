"""The carry: levels are pushed and popped, inputs and reports stay with it."""

import pytest
import torch

from hierlm.nn.inputs import with_tokens
from hierlm.nn.stream import Stream


def test_a_level_left_below_the_last_ones_output_is_an_error():
    x = torch.zeros(2, 3, 4)
    assert Stream((x,)).output is x
    with pytest.raises(ValueError, match=r"after the last layer 2 levels are left, allowed: 1; .* none behind it pops"):
        _ = Stream((x, x)).output


def test_whatever_is_done_to_levels_keeps_inputs_and_reports():
    tokens, x = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, 4)
    inputs = with_tokens(tokens)
    start = Stream.of(inputs).with_loss("a", torch.ones(2), weight=3.0).with_mean("b", torch.ones(2))
    start = start.with_sum("c", torch.ones(2, 5), finish=len)
    made = [start.push(x), start.push(x).pop()[1], start.with_hidden(x), start.with_levels(x, x)]
    assert all(stream.inputs is inputs and stream.reports == start.reports for stream in made)
    assert [(r.name, r.kind, r.weight) for r in start.reports] == [
        ("a", "loss", 3.0), ("b", "mean", 1.0), ("c", "sum", 1.0),
    ]  # fmt: skip


def test_tokens_alone_are_inputs_too():
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    stream = Stream.of(tokens)
    assert stream.levels == (tokens,) and stream.inputs["tokens"] is tokens
