"""The ring of replayed segments, and who sees whom in a segment with memory."""

import pytest
import torch

from hierlm.nn.memory_replay import NO_TOKEN, ReplayMemory, empty_replay, gradient_passes
from hierlm.nn.memory_tokens import segment_visibility


def _empty(depth: int) -> ReplayMemory:
    sizes = {"depth": depth, "segment_length": 3, "num_memory_tokens": 2, "hidden_dim": 4}
    return empty_replay(1, **sizes, device=torch.device("cpu"), dtype=torch.float32)


def _written(value: float) -> torch.Tensor:
    return torch.full((1, 2, 4), value, requires_grad=True)


def test_keeps_the_newest_segments_and_the_memory_before_each():
    ring = _empty(2)
    for index in range(4):
        tokens = torch.arange(3)[None] + 3 * index
        ring = ring.extended(tokens, [_written(float(index + 1))], num_unfinished=0)
    assert ring.window(num_tokens=6)[0].tolist() == [6, 7, 8, 9, 10, 11]
    assert [ring.start(back, learned=torch.zeros(2, 4))[0, 0, 0].item() for back in (2, 1, 0)] == [2, 3, 4]
    assert not ring.starts.requires_grad


def test_the_learned_memory_holds_before_anything_is_written():
    learned = torch.randn(2, 4, requires_grad=True)
    ring = _empty(1).extended(torch.zeros(1, 3, dtype=torch.int64), [_written(5.0)], num_unfinished=0)
    assert torch.equal(ring.start(1, learned=learned)[0], learned)
    assert (ring.start(0, learned=learned) == 5).all()


def test_an_unfinished_segment_writes_nothing():
    ring = _empty(1).extended(torch.tensor([[7, 8]]), [], num_unfinished=2)
    assert ring.known.tolist() == [[0, 0]] and ring.num_unfinished.tolist() == [2]
    assert ring.window(num_tokens=3)[0].tolist() == [NO_TOKEN, 7, 8]


def test_resizing_keeps_the_newest():
    ring = _empty(2)
    for index in range(3):
        ring = ring.extended(torch.full((1, 3), index), [_written(float(index))], num_unfinished=0)
    smaller, larger = ring.resized(1), ring.resized(3)
    assert smaller.window(num_tokens=3)[0].tolist() == [2, 2, 2]
    assert smaller.known.shape == (1, 2) and smaller.starts[0, -1, 0, 0] == 2
    assert larger.known.tolist() == [[0, 1, 1, 1]]
    assert larger.tokens.shape == (1, 12) and larger.tokens[0, 0] == NO_TOKEN


@pytest.mark.parametrize("num_segments", [1, 2, 3, 5])
@pytest.mark.parametrize("depth", [0, 1, 2, 4, 9])
def test_the_last_segment_reaches_exactly_as_far_as_asked(num_segments, depth):
    passes = gradient_passes(num_segments=num_segments, depth=depth)
    reach = 0
    for is_open in reversed(passes):
        if not is_open:
            break
        reach += 1
    assert len(passes) == num_segments - 1
    assert reach == min(depth, num_segments - 1)
    assert passes == sorted(passes)


def test_no_token_sees_what_is_written_and_read_sees_no_token():
    visible = segment_visibility(torch.tensor([[False, True, True]]), num_memory=2)[0, 0]
    text = ["".join("x" if cell else "." for cell in row) for row in visible.tolist()]
    assert text == [
        "xx.....",
        "xx.....",
        "xxx....",  # an empty place sees itself, so that its row is a number
        "xx.x...",
        "xx.xx..",
        "xx.xxxx",
        "xx.xxxx",
    ]
