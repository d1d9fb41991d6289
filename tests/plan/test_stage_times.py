"""What the cost cut promises is what a clock measures."""

import time
from itertools import pairwise

import pytest
import torch

from hierlm.costs.flops import layer_costs
from hierlm.costs.stage_cut import StageCut, cut_by_cost, cut_uniformly
from hierlm.models.assembly import layer_specs
from hierlm.models.hourglass import Config
from hierlm.nn.layer import Layer, build_layer, fold
from hierlm.nn.stream import Stream

ROWS, LENGTH, ROUNDS = 2, 384, 8
CONFIG = Config(arch="hourglass", vocab_size=8192, hidden_dim=256, num_heads=4, ffn_dim=1024, hierarchy="2@1 8@3 2@1")


def stage_seconds(cuts: dict[str, StageCut]) -> dict[str, list[float]]:
    """CPU seconds of forward and backward of every stage of every cut, the best of some rounds.

    All take their turn in every round: a neighbour on the processor slows whichever stage runs beside it, and would
    pass for imbalance if one stage were measured after the other.
    """
    layers = [build_layer(spec, seed=1, index=i) for i, spec in enumerate(layer_specs(CONFIG))]
    best = {name: [float("inf")] * (len(cut.boundaries) - 1) for name, cut in cuts.items()}
    for _ in range(ROUNDS):
        for name, cut in cuts.items():
            stream = Stream.of(torch.randint(CONFIG.vocab_size, (ROWS, LENGTH)))
            for stage, (start, stop) in enumerate(pairwise(cut.boundaries)):
                stream, seconds = there_and_back(layers[start:stop], stream)
                best[name][stage] = min(best[name][stage], seconds)
    return best


def there_and_back(stage: list[Layer], stream: Stream) -> tuple[Stream, float]:
    """What leaves the stage, and the CPU seconds it took forward and backward."""
    levels = (t.detach().requires_grad_() if t.is_floating_point() else t for t in stream.levels)
    entering = stream.with_levels(*levels)
    began = time.process_time()
    leaving, _ = fold(stage, entering, [None] * len(stage))
    torch.autograd.backward(leaving.levels, [torch.ones_like(t) for t in leaving.levels])
    return leaving, time.process_time() - began


def imbalance(seconds: list[float]) -> float:
    return max(seconds) * len(seconds) / sum(seconds) - 1


@pytest.mark.slow
@pytest.mark.parametrize("num_stages", [4, *(pytest.param(n, marks=pytest.mark.matrix) for n in (2, 3))])
def test_the_cost_cut_halves_the_imbalance_of_the_uniform_one(num_stages):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that the process's CPU time is the stage's time, however busy the machine
    try:
        costs = layer_costs(CONFIG, sequence_length=LENGTH, bytes_per_value=4)
        # stages take turns in one process here, so nothing crosses their boundaries
        cuts = {
            name: cut(costs, num_stages=num_stages, flops_per_byte=0)
            for name, cut in {"cost": cut_by_cost, "uniform": cut_uniformly}.items()
        }
        measured = {name: imbalance(seconds) for name, seconds in stage_seconds(cuts).items()}
    finally:
        torch.set_num_threads(threads)
    print(num_stages, measured)
    assert measured["cost"] <= measured["uniform"] / 2
