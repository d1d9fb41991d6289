"""The ring of replayed segments, which of them a call runs, and who sees whom in a segment with memory."""

import pytest
import torch

from hierlm.nn.memory.replay import NO_TOKEN, ReplayMemory, empty_replay, gradient_passes, saved_replay
from hierlm.nn.memory.segments import EvenSegments, UnevenSegments
from hierlm.nn.memory.tokens import segment_visibility


def _empty(depth: int) -> ReplayMemory:
    sizes = {"depth": depth, "segment_length": 3, "num_memory_tokens": 2, "hidden_dim": 4}
    return empty_replay(1, **sizes, device=torch.device("cpu"), dtype=torch.float32)


def _written(value: float) -> torch.Tensor:
    return torch.full((1, 2, 4), value, requires_grad=True)


def _after(ring: ReplayMemory, tokens: list[int], *written: float) -> ReplayMemory:
    """The ring after a call in which the segments run wrote these, the replayed ones first."""
    segments = EvenSegments if ring.is_even else UnevenSegments
    how = {"replays": False} if ring.is_even else {}
    of_call = segments(ring, torch.tensor([tokens]), segment_length=3, **how)
    assert len(of_call.tokens) == len(written)
    return of_call.kept([_written(value) for value in written])


def test_keeps_the_newest_segments_and_the_memory_before_each():
    ring = _empty(2)
    for index in range(4):
        ring = _after(ring, list(range(3 * index, 3 * index + 3)), index + 1.0)
    assert ring.tokens[0].tolist() == [6, 7, 8, 9, 10, 11] and ring.is_even
    assert [ring.start(back, learned=torch.zeros(2, 4))[0, 0, 0].item() for back in (2, 1, 0)] == [2, 3, 4]
    assert not ring.starts.requires_grad


def test_the_learned_memory_holds_before_anything_is_written():
    learned = torch.randn(2, 4, requires_grad=True)
    ring = _after(_empty(1), [0, 0, 0], 5.0)
    assert torch.equal(ring.start(1, learned=learned)[0], learned)
    assert (ring.start(0, learned=learned) == 5).all()
    each = ring.start_of_each(torch.tensor([1]), learned=learned)
    assert torch.equal(each, ring.start(1, learned=learned))


def test_an_unfinished_segment_writes_nothing():
    ring = _after(_empty(1), [7, 8], 5.0)
    assert ring.known.tolist() == [[0, 0]] and not ring.is_even
    assert ring.tokens[0].tolist() == [NO_TOKEN] * 3 and ring.unfinished[0].tolist() == [7, 8, NO_TOKEN]


def test_segments_end_where_each_row_began():
    """Two rows that stand one and two tokens into their segments, with two new tokens: 9 and 8."""
    rows = [_after(_after(_empty(1), [1, 2, 3], 5.0), unfinished, 0.0) for unfinished in ([4], [4, 5])]
    both = ReplayMemory(*(torch.cat(tensors) for tensors in zip(*rows, strict=True)))
    segments = UnevenSegments(both, torch.tensor([[9, 8], [9, 8]]), segment_length=3)
    assert [tokens.tolist() for tokens in segments.tokens] == [
        [[1, 2, 3], [4, 5, 9]],  # the first row's is replayed
        [[4, 9, 8], [8, NO_TOKEN, NO_TOKEN]],
    ]
    hidden = [tokens[..., None] * 10 for tokens in segments.tokens]
    assert segments.new_hidden(hidden)[..., 0].tolist() == [[90, 80], [90, 80]]
    kept = segments.kept([_written(value).expand(2, -1, -1) for value in (7.0, 8.0)])
    assert kept.tokens.tolist() == [[4, 9, 8], [4, 5, 9]]
    assert kept.unfinished.tolist() == [[NO_TOKEN] * 3, [8, NO_TOKEN, NO_TOKEN]]
    assert kept.starts[:, :, 0, 0].tolist() == [[5, 8], [5, 7]] and kept.known.tolist() == [[1, 1], [1, 1]]


def test_resizing_keeps_the_newest():
    ring = _empty(2)
    for index in range(3):
        ring = _after(ring, [index] * 3, float(index))
    smaller, larger = (ring.resized(depth, segment_length=3) for depth in (1, 3))
    assert smaller.tokens[0].tolist() == [2, 2, 2]
    assert smaller.known.shape == (1, 2) and smaller.starts[0, -1, 0, 0] == 2
    assert larger.known.tolist() == [[0, 1, 1, 1]]
    assert larger.tokens.shape == (1, 9) and larger.tokens[0, 0] == NO_TOKEN
    assert ring.resized(0, segment_length=3).resized(1, segment_length=3).tokens[0].tolist() == [NO_TOKEN] * 3


@pytest.mark.parametrize("num_unfinished", [0, 2])
def test_a_ring_of_the_first_version_is_read(num_unfinished):
    """Its second row had restarted alone, one token before what all rows then took for the segment's end."""
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    rows = torch.tensor([text[:7] + [7] * num_unfinished, text[:7] + [7] * num_unfinished])[:, -6:]
    if num_unfinished:
        rows[1, :5] = NO_TOKEN
    starts, known = torch.randn(2, 2, 2, 4), torch.ones(2, 2, dtype=torch.int64)
    ring = saved_replay((rows, starts, known, torch.full((2,), num_unfinished)))
    assert ring.starts is starts and ring.known is known
    assert ring.tokens.tolist() == rows[:, 3 - num_unfinished : 6 - num_unfinished].tolist()
    assert ring.is_even is (num_unfinished == 0)
    assert ring.unfinished.tolist() == ([[7, 7, NO_TOKEN], [7, NO_TOKEN, NO_TOKEN]] if num_unfinished else [[-1], [-1]])
    assert all(torch.equal(a, b) for a, b in zip(saved_replay(ring), ring, strict=True))


def test_no_shape_asks_where_rows_stand():
    """On the meta device there is nothing to read."""
    ring = ReplayMemory(*(tensor.to("meta") for tensor in _after(_empty(2), [1, 2], 5.0)))
    for num_tokens in (1, 3, 7, 14):
        tokens = torch.zeros(1, num_tokens, dtype=torch.int64, device="meta")
        segments = UnevenSegments(ring, tokens, segment_length=3)
        written = [torch.zeros(1, 2, 4, device="meta") for _ in segments.tokens]
        hidden = [torch.zeros(1, 3, 5, device="meta") for _ in segments.tokens]
        assert segments.new_hidden(hidden).shape == (1, num_tokens, 5)
        assert [tensor.shape for tensor in segments.kept(written)] == [tensor.shape for tensor in ring]


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
