"""Adaptive input and softmax: probabilities, ties, and the two ways to the loss."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from hierlm import models
from hierlm.models import transformer_xl
from hierlm.models.contract import Stream
from hierlm.nn.adaptive_bins import frequency_bins
from hierlm.nn.adaptive_input import AdaptiveEmbed
from hierlm.nn.adaptive_softmax import AdaptiveHead

PART = {
    "arch": "transformer_xl",
    "vocab_size": 50,
    "num_layers": 1,
    "hidden_dim": 16,
    "num_heads": 2,
    "ffn_dim": 24,
    "memory_length": 4,
    "cutoffs": [10, 30],
}


def _head(div_value: int) -> AdaptiveHead:
    torch.manual_seed(0)
    bins = frequency_bins(vocab_size=50, cutoffs=(10, 30), hidden_dim=16, div_value=div_value)
    head = AdaptiveHead(bins=bins, hidden_dim=16, is_projected=div_value > 1).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


@pytest.mark.parametrize("div_value", [1, 2])
def test_probabilities_over_the_vocabulary_sum_to_one(div_value):
    stream, _ = _head(div_value)(Stream((torch.randn(2, 5, 16, dtype=torch.float64),)))
    torch.testing.assert_close(stream.hidden.exp().sum(-1), torch.ones(2, 5, dtype=torch.float64))


@pytest.mark.parametrize("div_value", [1, 2])
def test_a_tails_tokens_share_out_the_probability_of_its_class(div_value):
    head, hidden = _head(div_value), torch.randn(3, 20, 16, dtype=torch.float64)
    probabilities = head(Stream((hidden,)))[0].hidden.exp()
    vectors = [hidden @ p.weight for p in head.projections] if div_value > 1 else [hidden] * 3
    first = torch.cat((head.tables[0](vectors[0]), head.tails(hidden)), dim=-1).softmax(-1)
    torch.testing.assert_close(probabilities[..., :10], first[..., :10])
    for index, (begin, end) in enumerate(((10, 30), (30, 50))):
        of_class = first[..., 10 + index, None]
        within = head.tables[index + 1](vectors[index + 1]).softmax(-1)
        torch.testing.assert_close(probabilities[..., begin:end].sum(-1, keepdim=True), of_class)
        torch.testing.assert_close(probabilities[..., begin:end], of_class * within)


@pytest.mark.parametrize("div_value", [1, 2])
def test_each_token_has_the_vector_of_its_bin(div_value):
    torch.manual_seed(0)
    bins = frequency_bins(vocab_size=50, cutoffs=(10, 30), hidden_dim=16, div_value=div_value)
    embed = AdaptiveEmbed(bins=bins, hidden_dim=16, is_projected=div_value > 1, dropout=0.0)
    tokens = torch.tensor([[0, 49, 10, 9], [30, 29, 5, 5]])
    out = embed(Stream((tokens,)))[0].hidden
    for row, column in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 3)):
        token = int(tokens[row, column])
        index = next(i for i, b in enumerate(bins) if b.first <= token < b.end)
        vector = embed.tables[index].weight[token - bins[index].first]
        if div_value > 1:
            vector = embed.projections[index].weight @ vector
        torch.testing.assert_close(out[row, column], vector * 4.0)


@pytest.mark.parametrize(("div_value", "tied_projections"), [(1, 0), (4, 2)])
def test_tied_weights_are_one_storage_and_counted_once(div_value, tied_projections):
    model = models.from_config({"model": PART | {"div_value": div_value}})
    embed, head = model.layers[0], model.layers[-1]
    assert all(a.weight is b.weight for a, b in zip(embed.tables, head.tables, strict=True))
    same = [a.weight is b.weight for a, b in zip(embed.projections, head.projections, strict=True)]
    assert same == ([False] + [True] * tied_projections if tied_projections else [])
    assert sum(p.numel() for p in model.parameters()) == transformer_xl.num_parameters(model.config)


def test_loss_reaches_every_table_and_projection():
    model = models.from_config({"model": PART | {"div_value": 2, "tie_embeddings": False}})
    tokens = torch.arange(50)[None]
    cross_entropy(model(tokens)[0][0], tokens[0].roll(1)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
