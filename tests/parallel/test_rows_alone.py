"""A row alone equals the row in a batch: no lane knows which rows share its micro-batch, wherever one restarts."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hierlm import models
from hierlm.models.assembly import LanguageModel, is_recurrent
from hierlm.nn.layer import StepContext, fold
from hierlm.nn.stream import Stream
from hierlm.parallel.memory_lanes import MemoryLanes
from tests.models.perturbed import perturbed
from tests.models.zoo import CASES, tiny_part

NUM_ROWS = 4
LENGTHS = (21, 16, 5, 30, 24, 1, 21)
"""Most are no multiple of a segment's 8 tokens, and one follows another: segments end in other places of each lane."""
RESTARTS = ((0, 1, 2, 3), (2,), (), (0,), (1, 3), (2,), ())
"""Rows that begin a new stream, for each step."""
OPTIONS: list[tuple[str, dict[str, object]]] = [
    ("recurrent_memory_transformer", {"bptt_depth": 0}),
    ("recurrent_memory_transformer", {"bptt_depth": 3}),
    ("recurrent_memory_transformer", {"bptt_depth": 2, "segment_length": 5, "num_memory_tokens": 0}),
    ("recurrent_memory_transformer", {"carry_memory": False}),
    ("transformer_xl", {"memory_length": 13, "share_position_biases": True}),
    ("skip_cross_head_xl", {"memory_length": 13, "layer_skip": "uniform", "skip_probability": 0.4}),
]


def parts() -> Iterator[object]:
    """The `model:` parts that carry memory: every architecture's of the zoo, and more options of some."""
    zoo = [(f"{name}-{index}", tiny_part(name, index)) for name, index in CASES]
    more = [("-".join([name, *(f"{k}={v}" for k, v in of.items())]), tiny_part(name) | of) for name, of in OPTIONS]
    for name, part in zoo + more:
        narrow = part | {"hidden_dim": 16, "vocab_size": 40} | ({"ffn_dim": 24} if "ffn_dim" in part else {})
        config = models.architecture(narrow["arch"]).Config.model_validate(narrow)
        if is_recurrent(config):
            yield pytest.param(narrow, id=name)


def steps_of(model: LanguageModel, rows: list[int]) -> Iterator[tuple[Tensor, list[Tensor], dict[int, list[Tensor]]]]:
    """(nats [rows], gradients of their sum, each layer's memory) of every step on some rows of the batch."""
    layers = dict(enumerate(model.layers))
    lanes = MemoryLanes(layers, device=torch.device("cpu"), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for step, (length, restarts) in enumerate(zip(LENGTHS, RESTARTS, strict=True)):
        text = torch.randint(40, (NUM_ROWS, length + 1), generator=generator)[rows]
        lanes.forget(torch.tensor([row in restarts for row in rows]))
        for layer in model.layers:
            layer.begin_step(StepContext(step, 5, {n: getattr(model.config, n) for n in model.config.train_switches()}))
        memories = lanes.get(0, num_rows=len(rows))
        stream, updated = fold(list(model.layers), Stream.of(text[:, :-1]), memories)
        lanes.put(0, updated)
        nats = cross_entropy(stream.hidden.transpose(1, 2), text[:, 1:], reduction="none").sum(1)
        gradients = torch.autograd.grad(nats.sum(), list(model.parameters()), allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), gradients, strict=True)]
        kept = {index: list(memory) for index, memory in enumerate(lanes.get(0, num_rows=len(rows))) if memory}
        yield nats.detach(), filled, kept


@pytest.mark.parametrize("part", parts())
def test_a_row_alone_equals_the_row_in_a_batch(part: dict[str, object]) -> None:
    model = perturbed(part).train()
    alone = [list(steps_of(model, [row])) for row in range(NUM_ROWS)]
    for step, (nats, gradients, memories) in enumerate(steps_of(model, list(range(NUM_ROWS)))):
        by_row = [steps[step] for steps in alone]
        close(nats, torch.cat([row[0] for row in by_row]), f"nats of step {step}")
        for name, *each in zip(dict(model.named_parameters()), gradients, *(row[1] for row in by_row), strict=True):
            close(each[0], sum(each[1:]), f"gradient of {name} at step {step}")
        for index, memory in memories.items():
            for place, tensor in enumerate(memory):
                one_by_one = torch.cat([row[2][index][place].expand(1, *tensor.shape[1:]) for row in by_row])
                close(tensor, one_by_one, f"memory {place} of layer {index} after step {step}")


def close(found: Tensor, expected: Tensor, what: str) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10, msg=lambda message: f"{what}: {message}")
