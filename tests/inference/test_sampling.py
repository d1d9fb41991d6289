"""What a token is drawn from."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hierlm.errors import UserError
from hierlm.inference.sampling import Sampling

LOGITS = torch.tensor([0.5, 3.0, -1.0, 2.0, 2.0, 0.0]).log_softmax(dim=0)


def test_without_bounds_it_is_the_softmax_at_the_temperature() -> None:
    assert torch.allclose(Sampling(temperature=0.7).probabilities(LOGITS), torch.softmax(LOGITS / 0.7, dim=0))


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_top_k_keeps_the_k_likeliest_in_their_proportions(k: int) -> None:
    drawn = Sampling(top_k=k).probabilities(LOGITS)
    kept = LOGITS.sort(descending=True, stable=True).indices[:k]
    expected = torch.zeros(6).scatter(0, kept, torch.softmax(LOGITS[kept], dim=0))
    assert torch.allclose(drawn, expected)


@given(p=st.floats(0.01, 1.0), values=st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_the_nucleus_is_the_smallest_set_that_reaches_p(p: float, values: list[float]) -> None:
    logits = torch.tensor(values)
    full, drawn = torch.softmax(logits, dim=0), Sampling(top_p=p).probabilities(logits)
    kept = full[drawn > 0]
    assert float(drawn.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(kept.sum()) >= p - 1e-5
    assert float(kept.sum() - kept.min()) < p + 1e-5
    assert float(kept.min()) >= _largest(full[drawn == 0]) - 1e-7
    assert torch.allclose(drawn[drawn > 0], kept / kept.sum(), atol=1e-5)


def _largest(values: Tensor) -> float:
    return float(values.max()) if len(values) else 0.0


def test_the_nucleus_is_taken_of_what_top_k_leaves() -> None:
    """Half of everything would be two tokens; half of the two likeliest is one."""
    logits = torch.tensor([0.4, 0.25, 0.2, 0.15]).log()
    assert int((Sampling(top_p=0.5).probabilities(logits) > 0).sum()) == 2
    assert Sampling(top_k=2, top_p=0.5).probabilities(logits).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_temperature_zero_takes_the_likeliest_whatever_the_bounds() -> None:
    assert Sampling(temperature=0, top_k=3, top_p=0.2).draw(LOGITS, generator=torch.Generator()) == 1


def test_every_bound_that_is_not_kept_is_told_at_once() -> None:
    with pytest.raises(UserError) as refusal:
        Sampling(temperature=-1, top_k=7, top_p=1.5).refuse_out_of_bounds(vocab_size=6)
    told = [problem.partition(":")[0] for problem in refusal.value.problems]
    assert told == ["--temperature", "--top-k", "--top-p"]


@pytest.mark.parametrize("sampling", [Sampling(top_k=0), Sampling(top_p=0.0), Sampling(temperature=float("nan"))])
def test_nothing_to_draw_from_is_refused(sampling: Sampling) -> None:
    with pytest.raises(UserError):
        sampling.refuse_out_of_bounds(vocab_size=6)


def test_the_edges_are_allowed() -> None:
    Sampling(temperature=0, top_k=6, top_p=1.0).refuse_out_of_bounds(vocab_size=6)
    Sampling(top_k=1).refuse_out_of_bounds(vocab_size=6)
