"""Adaptive input and softmax: probabilities, ties, and the two ways to the loss."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from hierlm import models
from hierlm.models import transformer_xl
from hierlm.nn.basic.adaptive_bins import frequency_bins
from hierlm.nn.basic.adaptive_input import AdaptiveEmbed
from hierlm.nn.basic.adaptive_softmax import AdaptiveHead
from hierlm.nn.stream import Stream

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
    first = torch.cat((head.tables[0](vectors[0]), head.tails(vectors[0])), dim=-1).softmax(-1)
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


def nats_of(hidden: torch.Tensor, targets: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean loss token by token, all classes of the head read from the first projection's output (1901.02860)."""
    edges, total = (0, 10, 30, 50), []
    for x, target in zip(hidden, targets.tolist(), strict=True):
        inner = [weights[f"projections.{index}.weight"].T @ x for index in range(3)]
        words = [
            weights[f"tables.{index}.weight"] @ inner[index] + weights[f"tables.{index}.bias"] for index in range(3)
        ]
        classes = weights["tails.weight"] @ inner[0] + weights["tails.bias"]
        first = torch.cat((words[0], classes)).log_softmax(0)
        place = next(index for index in range(3) if edges[index] <= target < edges[index + 1])
        within = words[place].log_softmax(0)[target - edges[place]] if place else 0.0
        total.append(-(first[target if place == 0 else 9 + place] + within))
    return torch.stack(total).mean()


def test_loss_and_gradients_are_those_of_classes_read_behind_the_first_projection():
    head, hidden = _head(2), torch.randn(12, 16, dtype=torch.float64)
    targets = torch.tensor([0, 9, 10, 29, 30, 49, 5, 17, 41, 3, 22, 35])
    own = {name: parameter.detach().clone().requires_grad_() for name, parameter in head.named_parameters()}
    ours = cross_entropy(head(Stream((hidden[None],)))[0].hidden[0], targets)
    theirs = nats_of(hidden, targets, own)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(parameter.grad, own[name].grad, msg=lambda text, name=name: f"{name}: {text}")


def test_first_scores_of_the_tails_are_as_small_as_projected_vectors_make_them():
    """0.02 * 0.01 * D for vectors of variance 1: three times smaller, at D = 1024, than from unprojected ones."""
    torch.manual_seed(1)
    bins = frequency_bins(vocab_size=50, cutoffs=(10, 30), hidden_dim=1024, div_value=4)
    head, hidden = AdaptiveHead(bins=bins, hidden_dim=1024, is_projected=True), torch.randn(1, 2000, 1024)
    with torch.no_grad():
        scores = head(Stream((hidden,)))[0].hidden
        classes = torch.stack([scores[..., low:high].logsumexp(-1) for low, high in ((10, 30), (30, 50))])
        words = hidden @ head.projections[0].weight @ head.tables[0].weight.T
        expected = hidden @ head.projections[0].weight @ head.tails.weight.T
    found = (classes - scores[..., 0])[..., 0, :] + words[..., 0]
    torch.testing.assert_close(found.T, expected[0], rtol=1e-4, atol=1e-4)
    assert 0.5 < expected.std() / (0.02 * 0.01 * 1024) < 2
