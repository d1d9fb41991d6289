"""FLOPs are counted where they happen: at each layer's own resolution."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hierlm import models
from hierlm.config.load import load_config
from hierlm.costs import flops
from hierlm.models.config import ModelConfig
from hierlm.nn.layer import Layer
from tests.conftest import ROOT

D, V, T = 8, 11, 12


class Embed(Layer):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(V, D)

    def forward(self, stream, memory=None):
        return stream.with_hidden(self.embedding(stream.hidden)), None


class Attend(Layer):
    """One head; remembers the last `memory_length` hidden states."""

    def __init__(self, *, memory_length):
        super().__init__()
        self.project, self.memory_length = nn.Linear(D, D), memory_length

    def initial_memory(self, batch_size, *, device, dtype):
        return (torch.zeros(batch_size, 0, D, device=device, dtype=dtype),)

    def forward(self, stream, memory=None):
        x = stream.hidden
        context = torch.cat([memory[0], x], dim=1)
        y = F.scaled_dot_product_attention(self.project(x)[:, None], context[:, None], context[:, None])[:, 0]
        kept = context[:, context.shape[1] - min(self.memory_length, context.shape[1]) :]
        return stream.with_hidden(y), (kept,)


class Shorten(Layer):
    """Keeps every k-th position; `reads_data` makes the shape depend on values, or on where they are not zero."""

    def __init__(self, k, *, reads_data=None):
        super().__init__()
        self.k, self.reads_data = k, reads_data

    def forward(self, stream, memory=None):
        places = torch.arange(0, stream.hidden.shape[1], self.k, device=stream.hidden.device)
        if self.reads_data == "values":
            places = places + int(stream.hidden.sum().item() * 0)
        if self.reads_data == "places":
            places = (torch.ones_like(places) > 0).nonzero().flatten() * self.k
        return stream.push(stream.hidden[:, places]), None


class Fourier(Layer):
    def forward(self, stream, memory=None):
        return stream.with_hidden(torch.fft.irfft(torch.fft.rfft(stream.hidden, dim=1), n=T, dim=1)), None


def costs_of(monkeypatch, *specs, **kwargs):
    monkeypatch.setattr(flops, "layer_specs", lambda config: list(specs))
    monkeypatch.setattr(flops, "shared_weights", lambda config: [])
    monkeypatch.setattr(flops, "input_specs", lambda config: {})
    return flops.layer_costs(ModelConfig(arch="toy", vocab_size=V), sequence_length=T, **kwargs)


def test_attention_and_projection_are_counted_to_the_digit(monkeypatch):
    _, attend = costs_of(monkeypatch, Embed, partial(Attend, memory_length=0))
    assert attend.forward_flops == 2 * T * D * D + 2 * 2 * T * T * D
    assert attend.training_flops == 3 * attend.forward_flops
    assert attend.parameters == D * D + D


@pytest.mark.parametrize("depth", [1, 3])
def test_an_lstm_is_counted_to_the_digit(depth):
    """Four gates of D each from input and state, 2D; element-wise gating is left out."""
    config = models.architecture("lstm").Config(arch="lstm", vocab_size=V, num_layers=depth, hidden_dim=D)
    counted = [cost.forward_flops for cost in flops.layer_costs(config, sequence_length=T)]
    assert counted == [0, *[2 * T * 4 * D * 2 * D] * depth, 2 * T * D * V]
    assert flops.flops_per_token(config, T) == 3 * sum(counted) / T


def test_relative_attention_counts_all_pairs_though_hidden_ones_are_left_out_in_training():
    part = {"arch": "transformer_xl", "vocab_size": V, "num_layers": 1, "num_heads": 2, "memory_length": 5}
    config = models.architecture("transformer_xl").Config(**part, hidden_dim=D, ffn_dim=3 * D)
    _, block, _ = flops.layer_costs(config, sequence_length=T)
    num_keys, num_distances = T + 5, T + 5
    projections = 2 * D * D * (T + 2 * num_keys + num_distances + T) + 2 * 2 * D  # u and v are maps of the number 1
    attention = 2 * T * D * (num_keys + num_distances + num_keys)
    assert block.forward_flops == projections + attention + 2 * 2 * T * D * 3 * D


def test_a_layer_behind_a_shorten_costs_its_share(monkeypatch):
    _, fine, _, coarse = costs_of(
        monkeypatch, Embed, partial(Attend, memory_length=0), partial(Shorten, 3), partial(Attend, memory_length=0)
    )
    assert coarse.forward_flops == 2 * (T // 3) * D * D + 2 * 2 * (T // 3) ** 2 * D
    assert fine.forward_flops > 3 * coarse.forward_flops


def test_boundary_bytes_are_those_of_the_whole_stack(monkeypatch):
    embed, shorten = costs_of(monkeypatch, Embed, partial(Shorten, 3), bytes_per_value=4)
    assert embed.output_bytes_per_row == T * D * 4
    assert shorten.output_bytes_per_row == (T + T // 3) * D * 4


def test_recurrent_memory_is_counted_when_full(monkeypatch):
    _, attend = costs_of(monkeypatch, Embed, partial(Attend, memory_length=30))
    assert attend.forward_flops == 2 * T * D * D + 2 * 2 * T * (T + 30) * D


def test_a_memory_without_end_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="grows without end"):
        costs_of(monkeypatch, Embed, partial(Attend, memory_length=10**9))


@pytest.mark.parametrize("what", ["values", "places"])
def test_shapes_that_depend_on_data_are_counted_on_real_tokens(monkeypatch, what):
    plain = costs_of(monkeypatch, Embed, partial(Shorten, 3), partial(Attend, memory_length=0))
    reading = costs_of(monkeypatch, Embed, partial(Shorten, 3, reads_data=what), partial(Attend, memory_length=0))
    assert [c.forward_flops for c in reading] == [c.forward_flops for c in plain]


def test_fourier_transforms_grow_as_n_log_n(monkeypatch):
    _, fourier = costs_of(monkeypatch, Embed, Fourier)
    both_ways = 2 * 2.5 * T * D * 3.58496  # log2 of 12
    assert fourier.forward_flops == pytest.approx(both_ways, abs=2)


@pytest.mark.parametrize("arch", ["transformer", "hourglass", "transformer_xl"])
def test_equal_layers_cost_what_they_would_cost_one_by_one(arch: str, monkeypatch: pytest.MonkeyPatch):
    many = {"model.num_layers=7"} if arch != "hourglass" else {"model.hierarchy=3@1 5@3 3@1"}
    model = load_config(ROOT / f"configs/tiny/{arch}.yaml", ["data.path=unused", *many]).model
    short = flops.layer_costs(model, sequence_length=48)
    monkeypatch.setattr("hierlm.costs.flops.are_equal", lambda a, b: False)
    assert flops.layer_costs(model, sequence_length=48) == short
