"""Time follows work, messages and the bubble."""

from dataclasses import replace

import pytest

from hierlm.parallel.degrees import Degrees
from hierlm.plan.communication import Traffic, traffic
from hierlm.plan.device import LINK_SHARE, MOVES, PRODUCT_SHARE
from hierlm.plan.devices import device
from hierlm.plan.devices.h100 import H100
from hierlm.plan.layer_memory import profile
from hierlm.plan.links import Links
from hierlm.plan.matmul_rate import measured_matmul_flops
from hierlm.plan.step_time import StageWork, step_time
from hierlm.plan.zero_memory import Kind
from tests.plan.making import estimator, setting

QUIET = Traffic(gradients=0, weights=0, tensor=0, boundary=0)


def of(*flops: float, micro_batches: int = 4, traffic: Traffic = QUIET, degrees: Degrees | None = None):
    works = [StageWork(each, 0, 0, traffic, 0) for each in flops]
    layout = degrees or Degrees(pipeline=len(flops))
    return step_time(works, micro_batches=micro_batches, degrees=layout, device=H100, bf16=True)


def test_the_slowest_stage_decides_and_the_pipeline_fills_and_drains():
    found = of(1e12, 2e12, 1e12)
    assert found.compute == found.products == pytest.approx(4 * 2e12 / (H100.bf16_flops * PRODUCT_SHARE))
    assert found.bubble == pytest.approx(2 * 1e12 / (H100.bf16_flops * PRODUCT_SHARE))  # once through the others
    assert found.total == pytest.approx(found.compute + found.bubble)


def test_what_lies_between_products_takes_memory_and_kernels():
    work = StageWork(0, MOVES * 10**9, 50, QUIET, 0)
    found = step_time([work], micro_batches=3, degrees=Degrees(), device=H100, bf16=True)
    assert found.memory == pytest.approx(3 * MOVES * 1e9 / H100.memory_bandwidth)
    assert found.kernels == pytest.approx(3 * 50 * H100.kernel_seconds)
    assert found.total == found.compute == pytest.approx(found.memory + found.kernels)


def test_one_stage_has_no_bubble():
    assert of(1e12).bubble == 0


@pytest.mark.parametrize(
    ("degrees", "link"),
    [
        (Degrees(data=8), H100.node_link),
        (Degrees(data=16), 8 * H100.fabric_link),  # a ring through each port of a node
        (Degrees(data=8, tensor=2), 4 * H100.fabric_link),  # and as many other groups through the others
        (Degrees(data=8, tensor=8), H100.fabric_link),
    ],
)
def test_a_ring_takes_all_ports_of_the_nodes_it_fills(degrees, link):
    found = of(1e12, traffic=replace(QUIET, gradients=10**9), degrees=degrees)
    assert found.data_messages == pytest.approx(1e9 / (link * LINK_SHARE))


def test_a_node_of_one_port_sends_through_one():
    links = Links(Degrees(data=16), replace(H100, ports=1))
    assert links.data == pytest.approx(H100.fabric_link * LINK_SHARE)
    assert Links(Degrees(pipeline=2, data=8), replace(H100, ports=1)).pipeline == pytest.approx(links.data / 8)


def phase(*overrides: str):
    found = estimator("transformer", *overrides)
    return found.estimate(found.config.parallel).phases[0]


def test_flops_of_full_recompute_are_one_more_forward_pass():
    flops = phase("parallel.activation_recompute=full").flops
    assert flops.recompute == flops.forward == flops.backward / 2
    assert phase().flops.recompute == 0


def test_recompute_costs_time_but_no_mfu_credit():
    plain, again = phase(), phase("parallel.activation_recompute=full")
    assert again.time.products == pytest.approx(plain.time.products * 4 / 3)
    assert again.time.memory > plain.time.memory and again.time.kernels > plain.time.kernels
    assert again.mfu < plain.mfu


@pytest.mark.parametrize(("stage", "times"), [(0, 2), (1, 2), (2, 2), (3, 2)])
def test_data_parallel_ranks_send_two_values_for_each_weight(stage, times):
    """ZeRO 3's three are of weights that do not stay gathered from the forward pass on: a billion do."""
    found = phase("parallel.data_parallel_degree=4", f"parallel.zero_stage={stage}")
    values = found.stages[0].num_values
    assert found.traffic[0].data == pytest.approx(times * 3 / 4 * values * 4, abs=2)


def test_zero_3_of_a_large_model_sends_three_values_in_each_micro_batch():
    kind = Kind(3, bf16=True, dp_degree=8, pipeline=False, micro_batches=5)
    nothing = profile(setting("transformer"))
    found = traffic(kind, profile=nothing, layers=range(len(nothing.layers)), values=2 * 10**9)
    assert found.data == pytest.approx(5 * 3 * 7 / 8 * 2e9 * 2)


def test_an_update_is_divided_by_what_zero_shares():
    whole, shared = (
        phase("parallel.data_parallel_degree=4", f"parallel.zero_stage={stage}").time.update for stage in (0, 1)
    )
    assert shared == pytest.approx(whole / 4)


def test_a_boundary_is_sent_in_slices_and_gathered_behind():
    plain, sliced = (
        phase("parallel.pipeline_parallel_degree=2", f"parallel.tensor_parallel_degree={degree}").traffic[0]
        for degree in (1, 4)
    )
    assert sliced.boundary == plain.boundary // 4
    layers = phase("parallel.tensor_parallel_degree=4").traffic[0].tensor
    assert sliced.tensor > plain.boundary * 3 // 4 and layers > 0


def test_tensor_ranks_sum_after_attention_and_feed_forward():
    found = phase("parallel.tensor_parallel_degree=2", "model.num_layers=1", "parallel.micro_batch_size=8")
    tokens, width = 8 * 48, 64
    forward = 3 * tokens * width  # embedding, attention, feed-forward
    backward = (1 + 1 + 1) * tokens * width  # query, key and value together; feed-forward; head
    cross_entropy = 3 * tokens  # the largest logit, that of the target, the sum of exponentials
    assert found.traffic[0].tensor == (forward + backward + cross_entropy) * 4


@pytest.mark.parametrize("is_gpu", [True, False])  # which scatters by exchange, where gloo's own sends twice as much
def test_sequence_parallel_ranks_gather_before_the_slices_and_scatter_behind_them(is_gpu):
    found = estimator(
        "transformer",
        *("parallel.tensor_parallel_degree=2", "parallel.sequence_parallel=true"),
        *("model.num_layers=1", "parallel.micro_batch_size=8"),
        is_gpu=is_gpu,
    )
    traffic = found.estimate(found.config.parallel).phases[0].traffic[0]
    tokens, width = 8 * 48, 64
    forward = 1 + 2 * (0.5 + 0.5) + 0.5  # embedding; gathers and scatters; whole again for the last norm
    kept_as_shares = 2 * 0.5  # gathered again
    backward = kept_as_shares + 2 * (0.5 + 0.5) + 0.5 + 1  # gathers and scatters; of all shares in front; head
    cross_entropy = 3 * tokens  # gradients of norms and of biases behind the sums are added up once a step
    assert traffic.tensor == ((forward + backward) * tokens * width + cross_entropy) * 4


def test_logits_in_chunks_are_made_twice():
    def recomputed(*overrides: str) -> float:
        return phase("train.loss_chunk_tokens=16", *overrides).flops.recompute

    assert recomputed() == 2 * 64 * 256
    everything = recomputed("parallel.activation_recompute=full")
    assert everything == phase("parallel.activation_recompute=full").flops.recompute  # the head's once as well


def test_this_machine_is_measured_and_shared():
    one, two = device("cpu", processes=1), device("cpu", processes=2)
    assert two.memory_bytes == one.memory_bytes // 2
    import torch

    assert measured_matmul_flops(torch.device("cpu"), precision="fp32", largest=128) > 1e8
