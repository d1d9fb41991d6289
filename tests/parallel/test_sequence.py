"""Sequence parallelism changes no number, whatever the draws, and keeps a share of what a block keeps."""

import time
from typing import Any

import pytest
import torch

from hierlm.config.load import load_config
from hierlm.errors import UserError
from hierlm.parallel.recompute import Recompute
from hierlm.plan.live_bytes import LiveBytes
from tests.distributed.spawn import run_ranks
from tests.distributed.test_layout_equality import RELATIVE, settings, train


def steps(model: str, layout: tuple[int, int, int], *overrides: str) -> torch.Tensor:
    dp, tp, pp = layout
    found = run_ranks(train, dp * tp * pp, model, [*settings(model, layout, 1), *overrides], None)
    assert all(rank == found[0] for rank in found)
    return torch.tensor(found[0]["steps"])


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("model", "layout", "recompute"),
    [
        pytest.param("hourglass", (1, 2, 1), "none", marks=pytest.mark.matrix),
        ("hourglass", (1, 2, 2), "selective"),
        pytest.param("hourglass-relative", (2, 2, 1), "none", marks=pytest.mark.matrix),
        ("transformer-tied", (1, 4, 1), "full"),
    ],
)
def test_losses_and_norms_stay_with_dropout_too(model: str, layout: tuple[int, int, int], recompute: str) -> None:
    how = ["model.dropout=0.1", f"parallel.activation_recompute={recompute}"]
    alone = steps(model, (layout[0], 1, 1), *how)
    shared = steps(model, layout, "parallel.sequence_parallel=true", *how)
    torch.testing.assert_close(shared, alone, rtol=RELATIVE, atol=0)


@pytest.mark.slow
@pytest.mark.distributed
def test_partitioned_weights_read_shared_tokens_too() -> None:
    """Stage 3 hands each slice a tensor of its own, which no door has let in."""
    shared = steps("transformer", (1, 2, 1), "parallel.sequence_parallel=true", "parallel.zero_stage=3")
    torch.testing.assert_close(shared, steps("transformer", (1, 1, 1)), rtol=RELATIVE, atol=0)


def kept_bytes(overrides: list[str], recompute: Recompute = "none") -> int:
    """What one rank holds between the forward and the backward pass."""
    from hierlm.nn.stream import Stream
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes
    from hierlm.parallel.recompute import run_layers

    config = load_config("configs/tiny/transformer.yaml", overrides)
    module: Any = Engine(config, process=start_processes()).module
    blocks = {index: layer for index, layer in module.local_layers.items() if 0 < index < len(module.layers) - 2}
    hidden = torch.randn(2, 64, config.model.hidden_dim, requires_grad=True)
    with LiveBytes() as live:
        end = run_layers(blocks, Stream((hidden,)), [None] * len(blocks), shares=module.shares, recompute=recompute)
    assert end[0].hidden.requires_grad
    return least_seen(live)


def least_seen(live: LiveBytes, *, seconds: float = 1.0) -> int:
    """`live.now` without what a thread of gloo still holds of the message before: it lets go a moment later."""
    least, until = live.now, time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
        least = min(least, live.now)
    return least


@pytest.mark.distributed
def test_a_rank_keeps_no_more_than_its_share_of_a_block() -> None:
    """Up to the whole tensors at both ends of the stack of blocks."""
    size = ["model.num_layers=8", "parallel.tensor_parallel_degree=2"]
    plain, _ = run_ranks(kept_bytes, 2, size)
    shared, _ = run_ranks(kept_bytes, 2, [*size, "parallel.sequence_parallel=true"])
    whole = 2 * 64 * 64 * 4  # bytes of hidden at the tiny config's width
    per_block = 4 * whole  # what does not shrink with the degree otherwise: two sums, two norms
    assert plain - shared > 8 * per_block / 2 - 3 * whole


@pytest.mark.distributed
def test_a_rank_keeps_no_more_than_its_share_of_what_is_dropped() -> None:
    """Two masks a block, each drawn whole, of which a fourth is kept; and slices of the whole keep nothing alive."""
    size = ["model.num_layers=8", "parallel.tensor_parallel_degree=4", "parallel.sequence_parallel=true"]
    without, *_ = run_ranks(kept_bytes, 4, size)
    dropping, *_ = run_ranks(kept_bytes, 4, [*size, "model.dropout=0.1"])
    whole = 2 * 64 * 64 * 4
    assert dropping - without <= 8 * 2 * whole / 4


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["selective", pytest.param("full", marks=pytest.mark.matrix)])
def test_recompute_keeps_no_more_because_tokens_are_shared(recompute: Recompute) -> None:
    """Products that are summed over ranks are not kept whole; a share of what goes in stands at the end."""
    size = ["model.num_layers=4", "parallel.tensor_parallel_degree=2"]
    plain, shared = (
        max(run_ranks(kept_bytes, 2, [*size, *more], recompute)) for more in ([], ["parallel.sequence_parallel=true"])
    )
    assert shared - plain <= 2 * 64 * 64 * 4 / 2


def without_blocks() -> str:
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    layout = ["parallel.tensor_parallel_degree=2", "parallel.sequence_parallel=true"]
    process = start_processes()
    try:
        Engine(load_config("configs/tiny/transformer_xl.yaml", layout), process=process)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.distributed
def test_a_model_without_such_blocks_is_refused() -> None:
    assert all("no layer of this model can share out" in said for said in run_ranks(without_blocks, 2))


def test_one_rank_has_nothing_to_share() -> None:
    with pytest.raises(UserError, match="tensor_parallel_degree"):
        load_config("configs/tiny/transformer.yaml", ["parallel.sequence_parallel=true"])
