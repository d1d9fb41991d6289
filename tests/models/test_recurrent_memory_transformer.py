"""The Recurrent Memory Transformer: what reaches what, replay against the unrolled graph, sizes."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from hierlm import models
from hierlm.models import recurrent_memory_transformer
from hierlm.models.assembly import LanguageModel, State
from hierlm.models.recurrent_memory_transformer import Config
from hierlm.nn.layer import StepContext, fold
from hierlm.nn.memory.replay import ReplayMemory
from hierlm.nn.stream import Stream
from tests.models.perturbed import perturbed

L = 4
SMALL = {
    "arch": "recurrent_memory_transformer",
    "vocab_size": 50,
    "num_layers": 2,
    "hidden_dim": 16,
    "num_heads": 2,
    "ffn_dim": 24,
    "num_memory_tokens": 3,
    "segment_length": L,
}


def _model(**fields: object) -> LanguageModel:
    return perturbed(SMALL | fields).train()


def _text(num_segments: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(50, (batch, num_segments * L), generator=torch.Generator().manual_seed(2))


def _loss(logits: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits.flatten(0, 1), _text(9)[:, : logits.shape[1]].flatten())


def _gradients(model: LanguageModel, loss: torch.Tensor) -> list[torch.Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]


def _one_by_one(model: LanguageModel, text: torch.Tensor) -> tuple[torch.Tensor, State]:
    """Logits of the last segment, with its graph, and the state before it."""
    state = model.initial_state(text)
    for piece in text.split(L, dim=1)[:-1]:
        _, state = model(piece, state)
    return model(text[:, -L:], state)[0], state


def _unrolled(model: LanguageModel, text: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Logits of the last segment after all of `text` from memory `start`, one graph, written without any ring."""
    cell, memory = model.layers[0], start
    for piece in text.split(L, dim=1):
        hidden, memory = cell._segment(piece, memory)
    return model.layers[1](Stream((hidden,)))[0].hidden


def _embedded_by(model: LanguageModel) -> list[torch.Tensor]:
    """Fills with the embedded tokens of every segment the model is about to run."""
    embedded: list[torch.Tensor] = []
    model.layers[0].embed.register_forward_hook(lambda module, inputs, output: embedded.append(output[0].hidden))
    return embedded


@pytest.mark.parametrize("num_segments", [1, 2, 3, 5])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_replay_equals_the_unrolled_graph(num_segments, depth):
    model, text = _model(bptt_depth=depth), _text(num_segments)
    replayed, _ = _one_by_one(model, text)
    first = max(num_segments - 1 - depth, 0)
    start = model.layers[0].memory.expand(2, -1, -1)
    with torch.no_grad():
        for piece in text.split(L, dim=1)[:first]:
            _, passed = model.layers[0]._segment(piece, start)
            start = passed
    unrolled = _unrolled(model, text[:, first * L :], start)
    torch.testing.assert_close(replayed, unrolled, rtol=0, atol=1e-12)
    pairs = zip(_gradients(model, _loss(replayed)), _gradients(model, _loss(unrolled)), strict=True)
    for ours, direct in pairs:
        torch.testing.assert_close(ours, direct, rtol=0, atol=1e-12)


def test_replay_from_the_newest_memory_would_be_wrong():
    """The negative control: what the released code does."""
    model, text = _model(bptt_depth=2), _text(5)
    replayed, state = _one_by_one(model, text)
    newest = ReplayMemory(*state[0]).start(0, learned=model.layers[0].memory)
    assert (_unrolled(model, text[:, 2 * L :], newest) - replayed).abs().max() > 1e-3


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_gradient_reaches_as_far_as_asked_and_the_learned_memory_while_it_is_in_sight(depth):
    for num_segments in range(1, 6):
        model, text = _model(bptt_depth=depth), _text(num_segments)
        _, state = _one_by_one(model, text)
        embedded = _embedded_by(model)
        loss = _loss(model(text[:, -L:], state)[0])
        reached = [float(g.abs().sum()) > 0 for g in torch.autograd.grad(loss, embedded, retain_graph=True)]
        missing = max(depth + 1 - num_segments, 0)  # segments before the stream began
        assert reached == [False] * missing + [True] * (depth + 1 - missing)
        (on_memory,) = torch.autograd.grad(loss, model.layers[0].memory)
        assert (on_memory.abs().sum() > 0) == (num_segments - 1 <= depth)


def test_inside_a_row_gradient_stops_as_far_back():
    model = _model(bptt_depth=2)
    embedded = _embedded_by(model)
    logits, _ = model(_text(5))
    reached = torch.autograd.grad(logits[:, -L:].sum(), embedded, allow_unused=True)
    assert [g is not None and float(g.abs().sum()) > 0 for g in reached] == [False, False, True, True, True]


@torch.no_grad()
def test_depth_of_the_gradient_changes_no_output():
    """A curriculum may change rows and depth: the same segments give the same logits."""
    text, outputs = _text(6), []
    for depth, segments_a_row in ((0, 1), (2, 1), (1, 2), (3, 3), (0, 6)):
        model, state, parts = _model(bptt_depth=depth), None, []
        for row in text.split(segments_a_row * L, dim=1):
            logits, state = model(row, state)
            parts.append(logits)
        outputs.append(torch.cat(parts, dim=1))
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("cut", [[1] * 10, [3, 7], [5, 1, 4], [10]])
def test_an_unfinished_segment_goes_on_in_the_next_call(cut):
    model, text = _model().eval(), _text(3)[:, :10]
    state, parts = None, []
    for piece in text.split(cut, dim=1):
        logits, state = model(piece, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), model(text)[0], rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("num_unfinished", [0, 2])
def test_a_row_put_back_to_the_beginning_goes_on_alone(num_unfinished):
    model, text = _model(bptt_depth=1).eval(), _text(4)
    _, state = model(text[:, : L + num_unfinished])
    is_new = torch.tensor([True, False])
    pairs = zip(model.initial_state(text)[0], state[0], strict=True)
    mixed = tuple(torch.where(is_new.view(-1, *[1] * (old.dim() - 1)), new, old) for new, old in pairs)
    rest = text[:, L + num_unfinished :]
    logits, _ = model(rest[:, : 2 * L], (mixed, None))
    torch.testing.assert_close(logits[1], model(text)[0][1, L + num_unfinished : 3 * L + num_unfinished])
    torch.testing.assert_close(logits[0], model(rest[:1, : 2 * L])[0][0])


def test_depth_may_change_where_rows_stand_in_the_middle_of_segments():
    """Replayed or not, with more or fewer than are kept: the same logits; gradient as far as asked."""
    model, text = _model(bptt_depth=2), _text(5)[:, :-1]
    state = None
    for piece in text[:, : 3 * L + 1].split(3, dim=1):
        _, state = model(piece, state)
    expected = model(text)[0][:, 3 * L + 1 :].detach()
    for depth in (0, 1, 3, 4):
        model.layers[0].begin_step(StepContext(step=0, seed=0, switches={"bptt_depth": depth}))
        embedded = _embedded_by(model)
        logits, after = model(text[:, 3 * L + 1 :], state)
        torch.testing.assert_close(logits.detach(), expected, rtol=0, atol=1e-12)
        assert ReplayMemory(*after[0]).depth == depth
        on_segments = torch.autograd.grad(logits[:, -(L - 1) :].sum(), embedded, allow_unused=True)
        reached = [g is not None and float(g.abs().sum()) > 0 for g in on_segments]
        num_reached = min(depth + 1, 4)  # two segments of the call and the two that are kept
        assert reached == [False] * (len(reached) - num_reached) + [True] * num_reached


@torch.no_grad()
def test_rows_that_carry_nothing_start_with_the_learned_memory():
    model, text = _model(carry_memory=False, bptt_depth=1), _text(4)
    first, state = model(text[:, : 2 * L])
    second, _ = model(text[:, : 2 * L], state)
    assert torch.equal(first, second)
    model.layers[0].begin_step(StepContext(step=0, seed=0, switches={"carry_memory": True, "bptt_depth": 1}))
    _, state = model(text[:, : 2 * L])
    assert (model(text[:, : 2 * L], state)[0] - first).abs().max() > 1e-3


@torch.no_grad()
def test_a_phase_may_change_the_depth_while_memory_is_carried():
    model, text = _model(bptt_depth=2), _text(5)
    expected = model(text)[0][:, -L:]
    _, state = _one_by_one(model, text)
    for depth in (0, 1, 3, 4):
        model.layers[0].begin_step(StepContext(step=0, seed=0, switches={"bptt_depth": depth}))
        logits, after = model(text[:, -L:], state)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
        assert ReplayMemory(*after[0]).depth == depth


@torch.no_grad()
def test_without_memory_tokens_it_is_the_backbone_segment_by_segment():
    ours = _model(num_memory_tokens=0)
    fields = {name: SMALL[name] for name in ("vocab_size", "num_layers", "hidden_dim", "num_heads", "ffn_dim")}
    theirs = models.from_config({"model": fields | {"arch": "transformer_xl", "memory_length": 0}}).double().train()
    theirs.layers[0].tokens.weight.copy_(ours.layers[0].embed.tokens.weight)
    for layer, block in zip(theirs.layers[1:-1], ours.layers[0].blocks, strict=True):
        layer.block.load_state_dict(block.state_dict())
    theirs.layers[-1].load_state_dict(ours.layers[-1].state_dict())
    text = _text(3)
    for index, logits in enumerate(ours(text)[0].split(L, dim=1)):
        torch.testing.assert_close(logits, theirs(text[:, index * L :][:, :L])[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_memory_tokens", [0, 1])
def test_no_parameter_is_empty(num_memory_tokens):
    """ZeRO 1 and 2 leave such a one out of what they save, ZeRO 3 dies of it."""
    model = _model(num_memory_tokens=num_memory_tokens)
    assert all(parameter.numel() for parameter in model.parameters())
    for names in (dict(model.named_parameters()), model.state_dict()):
        assert ("layers.0.memory" in names) is (num_memory_tokens > 0)


def test_equal_memory_vectors_part_ways():
    model = models.from_config({"model": SMALL | {"bptt_depth": 1}}, seed=1).train()
    memory = model.layers[0].memory
    with torch.no_grad():
        memory.copy_(memory[:1].expand_as(memory))
    _loss(model(_text(3))[0]).backward()
    assert (memory.grad[0] - memory.grad[1]).abs().max() > 0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {
                "vocab_size": 267_735,
                "cutoffs": [20_000, 40_000, 200_000],
                "num_layers": 16,
                "hidden_dim": 410,
                "num_heads": 10,
                "ffn_dim": 2100,
                "num_memory_tokens": 10,
            },
            151_111_638,
        ),
        (
            {
                "vocab_size": 204,
                "num_layers": 12,
                "hidden_dim": 512,
                "num_heads": 8,
                "ffn_dim": 2048,
                "num_memory_tokens": 5,
            },
            41_057_996,
        ),
    ],
)
def test_published_parameter_counts(fields, expected):
    config = Config.model_validate(SMALL | fields)
    assert recurrent_memory_transformer.num_parameters(config) == expected
    with torch.device("meta"):
        model = LanguageModel(config, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def _recall_rows(num_rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Four segments: a symbol, noise, noise, a question mark; the answer is the symbol."""
    rows = torch.randint(8, 16, (num_rows, 4 * L), generator=generator)
    answers = torch.randint(8, (num_rows,), generator=generator)
    rows[:, 1], rows[:, -1] = answers, 16
    return rows, answers


@pytest.mark.matrix
@pytest.mark.parametrize(("num_memory_tokens", "learns"), [(2, True), (0, False)])
def test_memory_carries_a_symbol_over_four_segments(num_memory_tokens, learns):
    fields = {"hidden_dim": 32, "num_memory_tokens": num_memory_tokens, "bptt_depth": 3, "carry_memory": False}
    model = models.from_config({"model": SMALL | fields | {"pre_norm": True}}, seed=1).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    accuracy = 0.0
    for _ in range(600 if learns else 60):
        rows, answers = _recall_rows(128, generator)
        scores = model(rows)[0][:, -1]
        accuracy = 0.9 * accuracy + 0.1 * (scores.argmax(-1) == answers).float().mean().item()
        if accuracy > 0.99:
            break
        optimizer.zero_grad()
        cross_entropy(scores, answers).backward()
        optimizer.step()
    assert accuracy > 0.99 if learns else accuracy < 0.3


def test_the_fold_hands_on_the_ring_and_nothing_else():
    model, text = _model(bptt_depth=1), _text(1)
    _, memories = fold(list(model.layers), Stream((text,)), model.initial_state(text))
    assert memories[1] is None and len(memories[0]) == 4
    assert not any(part.requires_grad for part in memories[0])
