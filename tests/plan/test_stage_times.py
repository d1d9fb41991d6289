"""What the cost cut promises is what a clock measures."""

import time

import pytest
import torch

from hierlm.models.assembly import layer_specs
from hierlm.models.contract import Stream, build_layer, fold
from hierlm.models.hourglass import Config
from hierlm.plan.flops import layer_costs
from hierlm.plan.stage_cut import StageCut, cut_by_cost, cut_uniformly

ROWS, LENGTH, REPEATS = 2, 384, 4
CONFIG = Config(arch="hourglass", vocab_size=8192, hidden_dim=256, num_heads=4, ffn_dim=1024, hierarchy="2@1 8@3 2@1")


def stage_seconds(cut: StageCut) -> list[float]:
    """CPU seconds of forward and backward of every stage, the best of some repeats."""
    layers = [build_layer(spec, seed=1, index=i) for i, spec in enumerate(layer_specs(CONFIG))]
    stream, seconds = Stream((torch.randint(CONFIG.vocab_size, (ROWS, LENGTH)),)), []
    for start, stop in zip(cut.boundaries, cut.boundaries[1:], strict=False):
        stage = layers[start:stop]
        times = []
        for _ in range(REPEATS):
            entering = Stream(tuple(t.detach().requires_grad_() if t.is_floating_point() else t for t in stream.levels))
            began = time.process_time()
            leaving, _ = fold(stage, entering, [None] * len(stage))
            torch.autograd.backward(leaving.levels, [torch.ones_like(t) for t in leaving.levels])
            times.append(time.process_time() - began)
        stream = leaving
        seconds.append(min(times))
    return seconds


def imbalance(seconds: list[float]) -> float:
    return max(seconds) * len(seconds) / sum(seconds) - 1


@pytest.mark.slow
@pytest.mark.parametrize("num_stages", [2, 3, 4])
def test_the_cost_cut_halves_the_imbalance_of_the_uniform_one(num_stages):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that the process's CPU time is the stage's time, however busy the machine
    try:
        costs = layer_costs(CONFIG, sequence_length=LENGTH, bytes_per_value=4)
        measured = {
            # stages take turns in one process here, so nothing crosses their boundaries
            name: imbalance(stage_seconds(cut(costs, num_stages=num_stages, flops_per_byte=0)))
            for name, cut in {"cost": cut_by_cost, "uniform": cut_uniformly}.items()
        }
    finally:
        torch.set_num_threads(threads)
    print(num_stages, measured)
    assert measured["cost"] <= measured["uniform"] / 2
