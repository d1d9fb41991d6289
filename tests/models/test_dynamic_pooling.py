"""Groups of varying length: their means, who reads them, and the boundary losses."""

import copy

import pytest
import sentencepiece
import torch

from hierlm import models
from hierlm.nn.inputs import with_tokens
from hierlm.nn.layer import StepContext
from hierlm.nn.resampling.boundaries import (
    binomial_penalty,
    entropies,
    entropy_spikes,
    fixed_boundaries,
    sampled_boundaries,
)
from hierlm.nn.resampling.dynamic_pooling import BOUNDARY_LOSS, BoundaryRule, PoolGroups, ReadGroups, group_means
from hierlm.nn.resampling.unigram import UnigramEnds
from hierlm.nn.shape import BlockShape
from hierlm.nn.stream import Stream
from tests.models.zoo import built, tokens

D = 8
SHAPE = BlockShape(
    hidden_dim=D, num_heads=2, ffn_dim=16, activation="gelu", positions="relative", dropout=0.0, residual_scale=1.0
)


def vectors(length, *, batch=2):
    return torch.randn(batch, length, D, generator=torch.Generator().manual_seed(length), dtype=torch.float64)


def marks(*rows):
    return torch.tensor([[int(c) for c in row] for row in rows], dtype=torch.float64)[..., None]


def marked(x, *rows):
    """Vectors whose tokens are 1 where a group is to end."""
    return Stream((x,), with_tokens(marks(*rows)[..., 0].long()))


def pooling(kind="whitespace", **fields):
    rule = {
        "fixed_factor": 3,
        "gumbel_rate": 0.2,
        "gumbel_temperature": 0.5,
        "max_groups": None,
        "separators": (1,),
        **fields,
    }
    return PoolGroups(shape=SHAPE, rule=BoundaryRule(kind=kind, **rule)).double().eval()


def test_means_equal_a_loop_over_the_groups():
    x, b = vectors(7), marks("0100101", "1000000")
    means = group_means(x, b, num_groups=None)
    expected = [x[0, :2].mean(0), x[0, 2:5].mean(0), x[0, 5:].mean(0)]
    torch.testing.assert_close(means[0], torch.stack(expected))
    torch.testing.assert_close(means[1], torch.stack([x[1, 0], torch.zeros(D), torch.zeros(D)]).double())


def test_a_boundary_everywhere_pools_nothing():
    x = vectors(5)
    torch.testing.assert_close(group_means(x, torch.ones(2, 5, 1).double(), num_groups=None), x)


def test_no_boundary_means_that_every_token_reads_the_null_group():
    x = vectors(5)
    pool = pooling()
    stream, _ = pool(marked(x, "00000", "00000"))
    read, _ = ReadGroups()(stream)
    torch.testing.assert_close(read.hidden - x, pool.norm(pool.null).expand_as(x))


def test_a_token_reads_its_own_group_if_it_ends_there_and_the_one_before_otherwise():
    coarse = torch.tensor([[[-1.0], [0.0], [1.0]]]).expand(1, 3, D)
    stream, _ = ReadGroups()(Stream((torch.zeros(1, 6, D), marks("010010").float(), coarse)))
    assert stream.hidden[0, :, 0].tolist() == [-1, 0, 0, 0, 1, 1]


def test_a_fixed_factor_makes_the_groups_of_an_hourglass():
    x = vectors(10)
    b = fixed_boundaries(x, first=0, factor=3)
    means = group_means(x, b, num_groups=None)
    shifted = torch.cat((torch.zeros(2, 2, D).double(), x), dim=1)
    hourglass = shifted[:, :12].unflatten(1, (4, 3)).mean(dim=2)
    torch.testing.assert_close(means[:, 1:], hourglass[:, 1:])
    torch.testing.assert_close(means[:, 0], hourglass[:, 0] * 3)  # one token instead of one and two zeros


def test_reading_one_group_early_sees_the_future(monkeypatch):
    def early(self, stream, memory=None):
        *below, x, boundaries, coarse = stream.levels
        index = (boundaries.cumsum(dim=1)[..., 0].long() + 1).clamp(max=coarse.shape[1] - 1)
        return stream.with_levels(*below, x + torch.stack([c[i] for c, i in zip(coarse, index, strict=True)])), memory

    model, text = built("dynamic_pooling", 3), tokens(12)
    monkeypatch.setattr(ReadGroups, "forward", early)
    changed = torch.cat((text[:, :6], tokens(6, seed=99)), dim=1)
    with torch.no_grad():
        assert not torch.allclose(model(changed)[0][:, :6], model(text)[0][:, :6])


def test_a_stated_maximum_makes_the_shapes_equal_and_stays_causal():
    x = vectors(9)
    stream, _ = pooling(max_groups=2)(marked(x, "101010101", "000000001"))
    assert stream.hidden.shape == (2, 3, D)
    assert stream.levels[-2][..., 0].sum(dim=1).tolist() == [2, 1]


def test_gradients_of_the_means():
    x = vectors(6, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: group_means(v, marks("010011"), num_groups=None), x)


def test_the_gradient_of_a_boundary_is_that_of_the_weights_of_its_group():
    """The surrogate: a token of group g weighs 1 + (g's drift), so d mean / d b_t sums over the tokens after t."""
    x, b = vectors(5, batch=1), marks("01001").requires_grad_()
    group_means(x, b, num_groups=None).sum().backward()
    drift = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    weights = 1 + drift.cumsum(0) - drift
    groups = [slice(0, 2), slice(2, 5)]
    sum((weights[g, None] * x[0, g]).sum(0) / weights[g].sum() for g in groups).sum().backward()
    torch.testing.assert_close(b.grad.flatten(), drift.grad)


def test_the_penalty_is_scipys_binomial():
    from scipy.stats import binom  # takes seconds, which every worker would spend when it collects the tests

    b = marks("0100100000", "1111100000")
    expected = -binom.logpmf([2, 5], 10, 0.2) / 10
    torch.testing.assert_close(binomial_penalty(b, rate=0.2), torch.tensor(expected).float(), rtol=1e-5, atol=1e-6)


def test_draws_follow_the_probability_and_pass_a_gradient():
    logits = torch.full((1, 4000, 1), 1.0, requires_grad=True)
    torch.manual_seed(0)
    drawn = sampled_boundaries(logits, temperature=0.5)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert drawn.mean().item() == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item(), abs=0.03)
    drawn.sum().backward()
    assert (logits.grad > 0).float().mean() > 0.9


def test_a_spike_is_less_certain_than_both_positions_before():
    sharpness = torch.tensor([5.0, 4.0, 3.0, 4.0, 3.5, 2.0])
    logits = torch.zeros(1, 6, 8)
    logits[0, :, 0] = sharpness
    assert entropy_spikes(entropies(logits)).flatten().tolist() == [1, 1, 1, 0, 0, 1]


def test_a_position_before_the_row_hinders_no_spike():
    logits = torch.zeros(3, 2, 8)
    logits[:, :, 0] = torch.tensor([[5.0, 4.0], [4.0, 5.0], [4.0, 4.0]])
    assert entropy_spikes(entropies(logits))[..., 0].tolist() == [[1, 1], [1, 0], [1, 0]]


def test_the_entropy_is_that_of_the_distribution_and_does_not_round_neighbours_to_one():
    logits = torch.randn(2, 5, 97, generator=torch.Generator().manual_seed(0))
    expected = torch.distributions.Categorical(logits=logits.double()).entropy()
    torch.testing.assert_close(entropies(logits), expected, rtol=1e-7, atol=0)
    near = torch.stack([torch.zeros(97), torch.zeros(97)])
    near[0, 0] = 1e-3  # 5e-9 nats less than uniform
    assert entropies(near)[0] < entropies(near)[1]


def loss_of(stream):
    return next(report.per_row for report in stream.reports if report.name == BOUNDARY_LOSS)


@pytest.mark.parametrize(("index", "kind"), [(4, "gumbel"), (5, "entropy")])
@pytest.mark.parametrize("training", [False, True])
def test_predicted_boundaries_report_a_loss_of_each_row_and_leave_the_logits_alone(index, kind, training):
    model, text = copy.deepcopy(built("dynamic_pooling", index)).train(training), tokens(12)
    whole, (first, second) = model.run(text)[0], (model.run(row)[0] for row in text.split(1))
    assert whole.output.shape == (2, 12, 256)
    assert loss_of(whole).shape == (2,) and (loss_of(whole) >= 0).all()
    if not (training and kind == "gumbel"):  # where rows draw
        torch.testing.assert_close(loss_of(whole), torch.cat((loss_of(first), loss_of(second))))


@pytest.fixture(scope="module")
def unigram_file(tmp_path_factory):
    at = tmp_path_factory.mktemp("unigram")
    text = at / "text"
    words = ["hello", "world", "there", "été", "token", "pooling", "groups"]
    text.write_text("\n".join(" ".join(words[i % 7 :] + words[: i % 5]) for i in range(200)), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(at / "m"),
        vocab_size=40,
        model_type="unigram",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return str(at / "m.model")


def ends_in(text: bytes, unigram_file: str, *, word_end: str) -> list[int]:
    return UnigramEnds(unigram_file, word_end=word_end)(torch.tensor([list(text)]))[0].nonzero().flatten().tolist()


def counted_from_spaces(text: bytes, unigram_file: str) -> list[int]:
    """The reference's rule, by lengths: the last piece of a word after the first takes in one space."""
    processor = sentencepiece.SentencePieceProcessor(model_file=unigram_file)
    lengths = []
    for index, word in enumerate(text.decode().split(" ")):
        written = "".join(processor.encode(word, out_type=str)).replace("▁", "")
        assert written == word
        pieces = [piece.replace("▁", "") for piece in processor.encode(word, out_type=str)]
        own = [len(piece.encode()) for piece in pieces if piece] or [0]
        lengths += [*own[:-1], own[-1] + (index > 0)]
    total, marks = 0, []
    for length in lengths[:-1]:
        total += length
        marks.append(total)
    assert total + lengths[-1] == len(text)
    return sorted(set(marks))


ROWS = [b"hello world there", b"lo wor", b" hello  world ", "oling été token".encode(), b"xhellox groupsworld x ", b" "]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_unigram_marks_at_spaces_are_those_of_the_reference(row, unigram_file):
    found = ends_in(row, unigram_file, word_end="space")
    assert found == counted_from_spaces(row, unigram_file)
    assert {place for place, byte in enumerate(row) if byte == 32} <= set(found)


def test_the_two_readings_differ_where_words_end_and_nowhere_else_after_the_first_word(unigram_file):
    row = b"world hellothere tokenx groups there"  # no word whose first piece is the space alone
    letter, space = (set(ends_in(row, unigram_file, word_end=end)) for end in ("letter", "space"))
    spaces = {place for place, byte in enumerate(row) if byte == 32}
    first = row.index(b" ")
    assert spaces <= space and not spaces & letter
    assert {place - 1 for place in spaces} <= letter
    assert {p for p in letter if p > first} - {p - 1 for p in spaces} == {p for p in space if p > first} - spaces


@pytest.mark.parametrize("word_end", ["letter", "space"])
@pytest.mark.parametrize("row", [b"hello world", b"hello wor", "hello ét".encode()])
def test_a_cut_row_ends_no_piece_and_a_space_after_it_does(row, word_end, unigram_file):
    assert len(row) - 1 not in ends_in(row, unigram_file, word_end=word_end)
    end = len(row) - 1 if word_end == "letter" else len(row)
    assert end in ends_in(row + b" ", unigram_file, word_end=word_end)


def test_unigram_marks_stand_on_the_last_byte_of_each_piece(unigram_file):
    text = "hello été world"
    ends = ends_in(text.encode(), unigram_file, word_end="letter")
    pieces = sentencepiece.SentencePieceProcessor(model_file=unigram_file).encode(text, out_type=str)
    written = [piece.replace("▁", " " if index else "") for index, piece in enumerate(pieces)]
    assert "".join(written) == text
    position, expected = 0, []
    for piece in written:
        position += len(piece.encode())
        expected.append(position - 1)
    assert ends == sorted(set(expected[:-1]) - {-1})  # the last one may go on in another row


def test_unigram_marks_survive_a_row_that_begins_inside_a_character(unigram_file):
    cut = list("été world".encode())[1:]
    for word_end in ("letter", "space"):
        assert len(UnigramEnds(unigram_file, word_end=word_end)(torch.tensor([cut]))[0]) == len(cut)


def test_the_unigram_predictor_learns_the_ends_of_pieces(unigram_file):
    part = {"arch": "dynamic_pooling", "hidden_dim": 16, "num_heads": 2, "ffn_dim": 32, "valley_layers": 1}
    part |= {"pre_layers": 1, "post_layers": 1, "boundaries": "unigram", "unigram_model": unigram_file}
    model = models.from_config({"model": part}, seed=2).train()
    text = torch.tensor([list(b"hello world there token pooling groups hello world")])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        for layer in model.layers:
            layer.begin_step(StepContext(step, 0, {}))
        stream, _ = model.run(text)
        loss = loss_of(stream).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def test_a_trained_unigram_model_runs_where_its_file_is_not(unigram_file, tmp_path):
    part = {"arch": "dynamic_pooling", "hidden_dim": 16, "num_heads": 2, "ffn_dim": 32, "valley_layers": 1}
    part |= {"pre_layers": 1, "post_layers": 1, "boundaries": "unigram"}
    here, elsewhere = (
        models.from_config({"model": part | {"unigram_model": str(file)}}, seed=2).eval()
        for file in (unigram_file, tmp_path / "none")
    )
    text = torch.tensor([list(b"hello world there")])
    with torch.no_grad():
        (with_file, _), (without, _) = here.run(text), elsewhere.run(text)
    assert torch.equal(with_file.output, without.output)
    assert [r.name for r in with_file.reports] == ["boundary_rate", BOUNDARY_LOSS]
    assert [r.name for r in without.reports] == ["boundary_rate"]
