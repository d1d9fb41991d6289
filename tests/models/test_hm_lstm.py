"""HM-LSTM: the three operations, nested boundaries, the slope of the detector's gradient, streaming."""

import pytest
import torch

from hierlm.nn.recurrent.multiscale_lstm import LevelCell, LevelState, MultiscaleLSTM, StepFunction
from tests.models.zoo import built, tokens

N, B = 6, 4


def cell():
    torch.manual_seed(1)
    return LevelCell(below_dim=N, hidden_dim=N, has_above=True, normalised=False).double()


def vector(seed, width=N):
    return torch.randn(B, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(level, *, below_boundary, own_boundary, before=None):
    before = before or LevelState(vector(1), vector(2), torch.full((B, 1), own_boundary, dtype=torch.float64))
    below = vector(3) @ level.from_below.weight.T
    return before, level(below, torch.full((B, 1), below_boundary).double(), before, vector(4), slope=1.0)


def test_copy_is_the_identity_and_closes_nothing():
    before, after = step(cell(), below_boundary=0.0, own_boundary=0.0)
    assert torch.equal(after.cell, before.cell)
    assert torch.equal(after.output, before.output)
    assert not after.boundary.any()


def test_copy_passes_the_gradient_unchanged():
    cell_before = vector(1).requires_grad_()
    before = LevelState(cell_before, vector(2), torch.zeros(B, 1).double())
    _, after = step(cell(), below_boundary=0.0, own_boundary=0.0, before=before)
    after.cell.sum().backward()
    assert torch.equal(cell_before.grad, torch.ones(B, N).double())


@pytest.mark.parametrize("below_boundary", [0.0, 1.0])
def test_flush_forgets_the_cell(below_boundary):
    one = torch.ones(B, 1).double()
    states = [LevelState(vector(seed), vector(2), one) for seed in (1, 7)]
    results = [step(cell(), below_boundary=below_boundary, own_boundary=1.0, before=state)[1] for state in states]
    assert torch.equal(results[0].cell, results[1].cell)


def test_update_is_an_lstm_step_without_top_down_connection():
    level = cell()
    before, after = step(level, below_boundary=1.0, own_boundary=0.0)
    s = level.recurrent(before.output) + level.from_below(vector(3))
    forget, entry, exit_, candidate = s[:, : 4 * N].chunk(4, dim=1)
    expected = torch.sigmoid(forget) * before.cell + torch.sigmoid(entry) * torch.tanh(candidate)
    torch.testing.assert_close(after.cell, expected)
    torch.testing.assert_close(after.output, torch.sigmoid(exit_) * torch.tanh(expected))


def test_a_level_closes_only_where_the_one_below_closes():
    torch.manual_seed(3)
    layer = MultiscaleLSTM(embedding_dim=5, hidden_dim=N, num_levels=4, normalised=False, slope=1.0).double()
    states = [LevelState(*(p[:, 0] for p in layer.initial_memory(3, device="cpu", dtype=torch.float64)))] * 4
    closed = []
    for time in range(60):
        x = torch.randn(3, 5, generator=torch.Generator().manual_seed(time), dtype=torch.float64) * 4
        states = layer._stepped(x @ layer.cells[0].from_below.weight.T, states)
        closed.append(torch.stack([state.boundary[:, 0] for state in states]))
        assert (closed[-1][1:] <= closed[-1][:-1]).all()
    share = torch.stack(closed).mean(dim=(0, 2))
    assert 0 < share[1] < share[0] < 1
    assert share[3] == 0


@pytest.mark.parametrize("slope", [1.0, 2.0, 5.0])
def test_the_gradient_of_a_boundary_is_half_the_slope_inside_the_band(slope):
    s = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64).requires_grad_()
    boundary = StepFunction.apply(s, slope)
    assert torch.equal(boundary, (s > 0).double())
    boundary.sum().backward()
    inside = s.detach().abs() < 1 / slope
    assert torch.equal(s.grad, torch.where(inside, slope / 2, 0.0).double())


def test_two_segments_with_the_state_carried_are_one():
    model, text = built("hm_lstm"), tokens(12)
    with torch.no_grad():
        whole, _ = model(text)
        first, state = model(text[:, :5])
        second, _ = model(text[:, 5:], state)
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole, rtol=1e-12, atol=1e-12)
