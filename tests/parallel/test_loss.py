"""Nats per token: whole, sliced over the vocabulary, and in chunks of tokens."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hierlm import models
from hierlm.config.load import load_config
from hierlm.errors import UserError
from hierlm.models.assembly import layer_specs
from hierlm.nn.basic.head import Head
from hierlm.parallel.log_sums import Slice, target_logits, z_loss
from hierlm.parallel.loss import LossEnd, require_head, token_losses
from hierlm.parallel.weighting import Counting
from hierlm.phases.timeline import Timeline
from hierlm.plan.live_bytes import LiveBytes
from tests.distributed.spawn import run_ranks

VOCAB = 7


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(2, 4, VOCAB, generator=generator)
    targets = torch.randint(0, VOCAB, (2, 4), generator=generator)
    targets[1, 3] = -1
    return logits, targets


def test_padding_costs_nothing_and_the_rest_is_cross_entropy():
    logits, targets = batch()
    nats = token_losses(logits, targets)
    assert nats[1, 3] == 0
    real = targets >= 0
    assert torch.allclose(nats[real], F.cross_entropy(logits[real], targets[real], reduction="none"))


def test_low_precision_logits_are_summed_in_fp32():
    logits, targets = batch()
    nats = token_losses(logits.to(torch.bfloat16), targets)
    assert nats.dtype == torch.float32
    assert torch.allclose(nats, token_losses(logits.to(torch.bfloat16).float(), targets))


def with_z_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The formula."""
    real = targets >= 0
    nats = F.cross_entropy(logits[real], targets[real], reduction="sum")
    return (nats + 0.3 * logits[real].logsumexp(dim=-1).square().sum()) / targets.numel()


def sliced() -> tuple[list, list, list]:
    """(nats, gradient of this rank's slice, that with the z-loss), with the vocabulary padded to 8 and cut in two."""
    from hierlm.parallel.degrees import Degrees
    from hierlm.parallel.groups import start_groups
    from hierlm.parallel.process import start_processes

    start_processes()
    groups = start_groups(Degrees(tensor=2))
    logits, targets = batch()
    padded = F.pad(logits, (0, 1), value=torch.finfo(logits.dtype).min)
    mine = padded.chunk(2, dim=-1)[groups.tp_rank].clone().requires_grad_()
    nats = token_losses(mine * 1.0, targets, are_sliced=True)
    nats.sum().backward()
    plain, mine.grad = mine.grad, None
    part = Slice(groups.tp_rank * 4, groups.tensor)
    wanted = target_logits(mine, targets.clamp(min=0), part=part)
    nats = token_losses(mine * 1.0, targets, are_sliced=True)
    log_sums = torch.where(targets >= 0, nats + wanted, 0.0)
    (nats.mean() + 0.3 * z_loss(log_sums, weight=0.3).per_row.mean()).backward()
    return nats.tolist(), plain.tolist(), mine.grad.tolist()


@pytest.mark.distributed
def test_sliced_logits_give_the_same_nats_and_gradients():
    logits, targets = batch()
    logits.requires_grad_()
    expected = token_losses(logits, targets)
    expected.sum().backward()
    found = run_ranks(sliced, 2)
    for nats, _, _ in found:
        torch.testing.assert_close(torch.tensor(nats), expected.detach(), rtol=1e-6, atol=1e-6)
    plain, logits.grad = logits.grad, None
    with_z_loss(logits, targets).backward()
    for which, wanted in ((1, plain), (2, logits.grad)):
        gradient = torch.cat([torch.tensor(part[which]) for part in found], dim=-1)
        torch.testing.assert_close(gradient[..., :VOCAB], wanted, rtol=1e-5, atol=1e-7)
        assert not gradient[..., VOCAB:].any()


@pytest.mark.parametrize("chunk_tokens", [None, 3])
def test_z_loss_is_the_mean_square_of_log_sums(chunk_tokens: int | None) -> None:
    torch.manual_seed(0)
    head, hidden = Head(vocab_size=VOCAB, hidden_dim=WIDTH), torch.randn(3, 7, WIDTH, requires_grad=True)
    targets = torch.randint(0, VOCAB, (3, 7))
    targets[0, 2] = -1
    end = LossEnd({4: head}, chunk_tokens=chunk_tokens, z_loss=0.3)
    nats, [report] = end.losses(hidden if chunk_tokens else head.projection(hidden), targets)
    assert (report.name, report.kind, report.weight) == ("z", "loss", 0.3)
    (found,) = torch.autograd.grad(nats.mean() + report.weight * report.per_row.mean(), hidden)
    (expected,) = torch.autograd.grad(with_z_loss(head.projection(hidden), targets), hidden)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_targets_that_count_unequally_do_so_in_the_z_loss() -> None:
    """Summed over micro-batches as the objective is: sum(w z) / sum(w), whatever their cut."""
    generator = torch.Generator().manual_seed(4)
    log_sums, weights = (torch.rand(6, 5, generator=generator) for _ in range(2))
    expected = (weights * log_sums.square()).sum() / weights.sum()
    for rows in (6, 3, 1):
        parts = zip(log_sums.split(rows), weights.split(rows), strict=True)
        scale = (6 // rows) / weights.sum()
        found = [z_loss(some, weight=1.0, counting=Counting(own, scale)).per_row.mean() for some, own in parts]
        torch.testing.assert_close(torch.stack(found).mean(), expected)


# In chunks of tokens

WIDTH = 5


def behind_a_head(
    chunk_tokens: int | None, *, rows: int = 3, length: int = 7, vocab: int = VOCAB, watched: Any = None
) -> Any:
    """(nats, gradient of what goes into the head, gradient of its weight)."""
    torch.manual_seed(0)
    head, hidden = Head(vocab_size=vocab, hidden_dim=WIDTH), torch.randn(rows, length, WIDTH, requires_grad=True)
    targets = torch.randint(0, vocab, (rows, length))
    targets[0, 2] = -1
    end = LossEnd({4: head}, chunk_tokens=chunk_tokens)
    with watched or torch.enable_grad():
        top = hidden * 1.0 if end.layers == {} else head.projection(hidden)
        nats, _ = end.losses(top, targets)
        nats.mean().backward()
    return nats.detach(), hidden.grad, head.projection.weight.grad


@pytest.mark.parametrize("chunk_tokens", [1, 4, 20, 21, 1000])
def test_chunks_give_the_same_nats_and_gradients(chunk_tokens: int) -> None:
    for found, expected in zip(behind_a_head(chunk_tokens), behind_a_head(None), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_logits_never_exist_whole() -> None:
    shape = {"rows": 4, "length": 64, "vocab": 2000}
    logits_bytes, weight_bytes = 4 * 64 * 2000 * 4, WIDTH * 2000 * 4
    whole, chunked = LiveBytes(), LiveBytes()
    behind_a_head(None, **shape, watched=whole)
    behind_a_head(16, **shape, watched=chunked)
    assert whole.peak > 2 * logits_bytes
    # of one chunk the logits, their log-probabilities and gradients; a chunk's gradient of the weight beside their sum
    assert chunked.peak < 3.5 * logits_bytes / 16 + 3 * weight_bytes


def engine_steps(arch: str, overrides: list[str]) -> Any:
    """Loss and gradient norm of three steps, and nats of an evaluation."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    config = load_config(f"configs/tiny/{arch}.yaml", overrides)
    engine = Engine(config, process=start_processes())
    timeline, found = Timeline(config.phases), []
    for step in range(3):
        tokens = torch.randint(0, 97, (8, 20), generator=torch.Generator().manual_seed(step))
        result = engine.train_step(tokens[:, :-1], tokens[:, 1:], moment=timeline.at(step))
        found.append([engine.global_mean(result.loss), float(result.grad_norm)])
    return found, engine.evaluate(tokens[:2, :-1], tokens[:2, 1:]).tolist()


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("arch", "world_size", "layout"),
    [
        pytest.param("transformer", 1, ["model.tie_embeddings=true"], marks=pytest.mark.slow),
        pytest.param(
            "transformer", 1, ["parallel.zero_stage=3", "parallel.activation_recompute=full"], marks=pytest.mark.slow
        ),
        ("transformer", 2, ["parallel.tensor_parallel_degree=2", "parallel.sequence_parallel=true"]),
        ("transformer", 2, ["parallel.pipeline_parallel_degree=2", "model.tie_embeddings=true"]),
        pytest.param(
            "transformer", 2, ["parallel.pipeline_parallel_degree=2", "parallel.stage_cut=[4]"], marks=pytest.mark.slow
        ),  # a stage of the head
        pytest.param(
            "transformer_xl",
            4,
            ["parallel.pipeline_parallel_degree=2", "parallel.tensor_parallel_degree=2"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_training_in_chunks_is_the_same(arch: str, world_size: int, layout: list[str]) -> None:
    sizes = ["model.vocab_size=97", "phases.0.sequence_length=19", "parallel.micro_batch_size=4", "model.dropout=0.1"]
    settings = [*sizes, *layout, "model.num_layers=2"]
    whole = run_ranks(engine_steps, world_size, arch, settings)
    chunked = run_ranks(engine_steps, world_size, arch, [*settings, "train.loss_chunk_tokens=13"])
    for expected, found in zip(whole, chunked, strict=True):
        for before, after in zip(expected, found, strict=True):
            torch.testing.assert_close(torch.tensor(after), torch.tensor(before), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("arch", "part", "ends_in"),
    [
        ("transformer_xl", {"cutoffs": (20, 60)}, "AdaptiveHead"),
        ("dynamic_pooling", {"boundaries": "entropy"}, "BoundaryLoss"),
    ],
)
def test_models_that_do_not_end_in_a_head_are_refused(arch: str, part: dict[str, Any], ends_in: str) -> None:
    tiny = load_config(f"configs/tiny/{arch}.yaml", []).model
    config = models.architecture(arch).Config.model_validate({**tiny.model_dump(), **part})
    with pytest.raises(UserError, match=rf"train\.loss_chunk_tokens: given with a model that ends in {ends_in}"):
        require_head(layer_specs(config)[-1])
