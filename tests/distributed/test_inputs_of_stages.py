"""What the batch says is at hand on every stage, and no message carries it."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from hierlm.config.load import load_config
from tests.distributed.architectures import known
from tests.distributed.spawn import run_ranks

LENGTH, ROWS, STEPS = 12, 8, 2
WORDS = [
    "model.arch=reporting",
    "model.num_layers=1",
    "model.vocab_size=97",
    "model.hidden_dim=16",
    "model.ffn_dim=24",
    "parallel.micro_batch_size=2",
    f"phases.0.sequence_length={LENGTH}",
    f"phases.0.global_batch_size={ROWS}",
    "train.precision=fp32",
]
ALONE, EIGHT = {"tensor": 1, "pipeline": 1}, {"tensor": 2, "pipeline": 4}
MESSAGES = ("send", "isend", "broadcast", "all_reduce", "all_gather_into_tensor", "reduce", "broadcast_object_list")


def text(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, targets, and documents that no rule would make of the tokens."""
    generator = torch.Generator().manual_seed(step)
    rows = torch.randint(97, (ROWS, LENGTH + 1), generator=generator)
    documents = torch.randint(2, (ROWS, LENGTH), generator=generator).cumsum(dim=1)
    return rows[:, :-1], rows[:, 1:], documents


def train(words: list[str], given: bool) -> dict[str, Any]:
    """On one rank: losses, gradient norms, nats, and every message that a step and an evaluation sent."""
    known()
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes
    from hierlm.phases.timeline import Timeline

    config = load_config("configs/tiny/transformer.yaml", words)
    engine, timeline = Engine(config, process=start_processes()), Timeline(config.phases)
    steps, messages = [], list[tuple[str, str, int]]()
    for step in range(STEPS):
        tokens, targets, documents = text(step)
        inputs = {"documents": documents} if given else {}
        if step == STEPS - 1:
            count_messages(messages)
        result = engine.train_step(tokens, targets, moment=timeline.at(step), inputs=inputs)
        nats = engine.evaluate(tokens, targets, inputs=inputs)
        steps += [float(result.loss), float(result.grad_norm), float(nats.double().mean())]
    return {"steps": steps, "messages": messages}


def count_messages(messages: list[tuple[str, str, int]]) -> None:
    """Note the kind, type and size of all that this process sends from now on."""

    def noting(name: str, function: Any) -> Any:
        def sent(*args: Any, **kwargs: Any) -> Any:
            tensor = next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)), None)
            messages.append((name, str(getattr(tensor, "dtype", None)), 0 if tensor is None else tensor.numel()))
            return function(*args, **kwargs)

        return sent

    for name in MESSAGES:
        setattr(dist, name, noting(name, getattr(dist, name)))


def words_of(degrees: dict[str, int], *more: str) -> list[str]:
    cut = ["parallel.stage_cut=[2,3,4]"] if degrees["pipeline"] == 4 else []
    return [*WORDS, *(f"parallel.{axis}_parallel_degree={n}" for axis, n in degrees.items()), *cut, *more]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_layer_of_the_last_of_four_stages_reads_documents_that_nobody_sent() -> None:
    [alone] = run_ranks(train, 1, words_of(ALONE), True)
    [blind] = run_ranks(train, 1, words_of(ALONE, "model.reads_documents=false"), True)
    assert all(abs(a - b) > 1e-3 * b for a, b in zip(alone["steps"], blind["steps"], strict=True))
    reading = run_ranks(train, 8, words_of(EIGHT), True)
    for rank in reading:
        assert rank["steps"] == pytest.approx(alone["steps"], rel=1e-5)
    not_reading = run_ranks(train, 8, words_of(EIGHT, "model.reads_documents=false"), True)
    for place, (reads, does_not) in enumerate(zip(reading, not_reading, strict=True)):
        assert reads["messages"] and reads["messages"] == does_not["messages"]
        sent = {(dtype, size) for name, dtype, size in reads["messages"] if "send" in name}
        expected = {("torch.float32", 2 * LENGTH * 16), ("torch.int32", 256)}  # the second: DeepSpeed's words on shapes
        assert sent <= expected, f"rank {place} sent more than activations and their gradients"
