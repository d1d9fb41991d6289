"""Compiled layers compute the same, keep their names, go on after a resume, and are refused without a compiler."""

import tempfile
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from hierlm.errors import UserError
from hierlm.nn.basic.head import Head
from hierlm.parallel.compilation import compile_layers, compiled, fused_on_gpu
from hierlm.parallel.loss import _cross_entropy
from tests.distributed.spawn import run_ranks
from tests.parallel.test_engine import layout, run
from tests.parallel.test_loss import engine_steps

SMALL = ["model.vocab_size=97", "phases.0.sequence_length=19", "model.num_layers=1", "model.hidden_dim=32"]


def test_a_machine_without_compiler_is_told_so() -> None:
    import torch._inductor.config

    nowhere = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    told = r"train\.compile: given true, allowed here: false, .* install g\+\+"
    with nowhere, pytest.raises(UserError, match=told):
        compile_layers([], device=torch.device("cpu"))


def test_parameters_keep_their_names() -> None:
    head = Head(vocab_size=7, hidden_dim=4)
    compile_layers([head], device=torch.device("cpu"))
    assert [name for name, _ in head.named_parameters()] == ["projection.weight"]


def _nothing(*_: torch.Tensor) -> torch.Tensor:
    raise AssertionError("only a plan's tensors hold no data")


def test_a_cpu_takes_operations_as_they_are() -> None:
    assert fused_on_gpu(_cross_entropy, device=torch.device("cpu"), without_data=_nothing) is _cross_entropy


@pytest.mark.parametrize("missing", ["triton", "gcc", "nothing"])
def test_a_gpu_without_the_means_takes_operations_as_they_are(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def which(name: str) -> str | None:
        return None if missing == "gcc" else name

    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("hierlm.parallel.compilation.has_triton", lambda: missing != "triton")
    monkeypatch.setattr("hierlm.parallel.compilation.shutil.which", which)
    found = fused_on_gpu(_cross_entropy, device=torch.device("cuda"), without_data=_nothing)
    assert (found is _cross_entropy) == (missing != "nothing")


@pytest.mark.slow
def test_cross_entropy_as_a_gpu_runs_it_is_the_same() -> None:
    logits, targets = torch.randn(30, 501).bfloat16(), torch.randint(501, (30,))
    nats_and_gradients = []
    for function in (_cross_entropy, compiled(_cross_entropy)):
        given = logits.clone().requires_grad_()
        nats = checkpoint(function, given, targets, use_reentrant=False)  # as in chunks
        (nats * torch.arange(30)).sum().backward()
        nats_and_gradients.append((nats.detach(), given.grad))
    torch.testing.assert_close(*nats_and_gradients)


def steps_and_graphs(overrides: list[str]) -> tuple[Any, int]:
    """What `engine_steps` gives, and how many graphs were compiled for it."""
    import torch._dynamo.utils

    return engine_steps("transformer", overrides), torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    "part", ["parallel.zero_stage=1", pytest.param("parallel.zero_stage=3", marks=pytest.mark.matrix)]
)
def test_compiled_layers_train_the_same(part: str) -> None:
    overrides = [*SMALL, part, "model.dropout=0.1", "parallel.micro_batch_size=4"]
    [(expected, none)] = run_ranks(steps_and_graphs, 1, overrides)
    [(found, some)] = run_ranks(steps_and_graphs, 1, [*overrides, "train.compile=true"])
    assert none == 0 < some
    for before, after in zip(expected, found, strict=True):
        torch.testing.assert_close(torch.tensor(after), torch.tensor(before), rtol=1e-5, atol=1e-5)


@pytest.mark.matrix
@pytest.mark.distributed
def test_a_compiled_run_that_is_resumed_goes_on_to_the_last_bit() -> None:
    settings = [*layout(1, 1), *SMALL[2:], "train.compile=true"]
    with tempfile.TemporaryDirectory() as folder:
        whole = run(settings, 1)
        begun = run(settings, 1, last=3, save=folder)
        rest = run(settings, 1, first=3, load=folder)
    assert begun + rest == whole
