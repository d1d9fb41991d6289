"""What crosses a stage boundary arrives unchanged, and its gradient comes back in one piece."""

import pytest
import torch

from hierlm.nn.stream import Stream
from hierlm.parallel.boundary import Packer, Parts, Payload, Unpacker
from tests.distributed.spawn import run_ranks


def levels(*lengths: int, width: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, n, width, generator=generator, requires_grad=True) for n in lengths)


def pack(stream: Stream) -> Payload:
    return Packer().pack(stream)


@pytest.mark.parametrize("lengths", [(7,), (7, 3), (8, 4, 1)])
def test_a_stack_arrives_as_it_left(lengths):
    sent = levels(*lengths)
    received = Unpacker().unpack(pack(Stream(sent)))
    assert len(received) == len(sent)
    assert all(torch.equal(a, b) for a, b in zip(sent, received, strict=True))


def test_only_one_sent_tensor_has_a_gradient():
    payload = pack(Stream(levels(7, 3)))
    assert [tensor.is_floating_point() for tensor in payload] == [True, False]


def test_gradients_of_all_levels_come_back():
    sent = levels(7, 3)
    fine, coarse = Unpacker().unpack(pack(Stream(sent)))
    (fine.sum() + 2 * coarse.sum()).backward()
    assert torch.equal(sent[0].grad, torch.ones_like(sent[0]))
    assert torch.equal(sent[1].grad, 2 * torch.ones_like(sent[1]))


def test_shapes_hold_until_forgotten():
    unpacker = Unpacker()
    unpacker.unpack(pack(Stream(levels(6, 2))))
    other = pack(Stream(levels(4, 4)))  # as many numbers, other shapes
    unpacker.forget()
    assert [level.shape[1] for level in unpacker.unpack(other)] == [4, 4]


def test_levels_of_different_types_are_refused():
    fine, coarse = levels(4, 2)
    with pytest.raises(ValueError, match="different types"):
        pack(Stream((fine, coarse.to(torch.bfloat16))))


def through_parts(lengths):
    """On one rank: what arrives of a stack that was sent in parts, its gradient, and how many numbers were sent."""
    from hierlm.parallel.process import start_processes

    start_processes()
    parts, sent = Parts(torch.distributed.group.WORLD), levels(*lengths)
    numbers, shapes = Packer(parts).pack(Stream(sent))
    arrived = numbers.detach().requires_grad_()  # as DeepSpeed hands it to the next stage
    received = Unpacker(parts).unpack((arrived, shapes))
    sum((place + 1) * (level**2).sum() for place, level in enumerate(received)).backward()
    numbers.backward(arrived.grad)
    return len(numbers), [level.tolist() for level in received], [level.grad.tolist() for level in sent]


@pytest.mark.distributed
@pytest.mark.parametrize("lengths", [(7,), (7, 3, 1)])
def test_ranks_that_hold_the_same_send_a_part_each_and_get_back_all(lengths):
    sent = levels(*lengths)
    count = sum(level.numel() for level in sent)
    assert count % 4  # the last part is padded
    for num_sent, received, gradients in run_ranks(through_parts, 4, lengths):
        assert num_sent == -(-count // 4)
        assert received == [level.tolist() for level in sent]
        for place, (level, gradient) in enumerate(zip(sent, gradients, strict=True)):
            torch.testing.assert_close(torch.tensor(gradient), 2.0 * (place + 1) * level.detach())
