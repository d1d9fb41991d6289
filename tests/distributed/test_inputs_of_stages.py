"""What the batch says is at hand on every stage, and no message carries it."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from hierlm.config.load import load_config
from tests.distributed.architectures import known
from tests.distributed.spawn import end_groups, run_ranks

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


def train_each(runs: list[list[str]]) -> list[dict[str, Any]]:
    """On one rank, of each run: losses, gradient norms and nats, and every message of a step and an evaluation."""
    known()
    from hierlm.parallel.process import start_processes

    process, found, messages = start_processes(), [], list[tuple[str, str, int]]()
    count_messages(messages)
    for words in runs:
        end_groups()
        numbers = train(words, process, messages)
        found.append({"numbers": numbers, "messages": messages.copy()})
    return found


def train(words: list[str], process: Any, messages: list[tuple[str, str, int]]) -> list[float]:
    from hierlm.parallel.engine import Engine
    from hierlm.phases.timeline import Timeline

    config = load_config("configs/tiny/transformer.yaml", words)
    engine, timeline, numbers = Engine(config, process=process), Timeline(config.phases), list[float]()
    for step in range(STEPS):
        tokens, targets, documents = text(step)
        messages.clear()  # those of the last step are looked at
        result = engine.train_step(tokens, targets, moment=timeline.at(step), inputs={"documents": documents})
        nats = engine.evaluate(tokens, targets, inputs={"documents": documents})
        numbers += [float(result.loss), float(result.grad_norm), float(nats.double().mean())]
    return numbers


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


def both(degrees: dict[str, int]) -> list[list[str]]:
    """A run whose last layer reads documents, and one whose last layer does not."""
    layout = [f"parallel.{axis}_parallel_degree={n}" for axis, n in degrees.items()]
    cut = ["parallel.stage_cut=[2,3,4]"] if degrees["pipeline"] == 4 else []
    return [[*WORDS, *layout, *cut, f"model.reads_documents={reads}"] for reads in ("true", "false")]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_layer_of_the_last_of_four_stages_reads_documents_that_nobody_sent() -> None:
    alone, blind = run_ranks(train_each, 1, both(ALONE))[0]
    assert all(abs(a - b) > 1e-3 * b for a, b in zip(alone["numbers"], blind["numbers"], strict=True))
    for place, (reads, does_not) in enumerate(run_ranks(train_each, 8, both(EIGHT))):
        assert reads["numbers"] == pytest.approx(alone["numbers"], rel=1e-5)
        assert reads["messages"] and reads["messages"] == does_not["messages"]
        sent = {(dtype, size) for name, dtype, size in reads["messages"] if "send" in name}
        part, shapes = ("torch.float32", 2 * LENGTH * 16 // 2), ("torch.int64", 3)  # of a rank's half, and of the whole
        expected = {part, shapes, ("torch.int32", 256)}  # the last: DeepSpeed's words on shapes
        assert sent <= expected, f"rank {place} sent more than activations and their gradients"
