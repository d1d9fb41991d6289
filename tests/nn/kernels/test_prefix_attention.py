"""Attention by blocks of queries: the numbers of masked attention, whatever the rule and the size."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hierlm.nn.attention.visibility import Causal, GroupsSoFar, OnePerGroup, Rule
from hierlm.nn.kernels import linear, prefix_attention
from hierlm.nn.kernels.prefix_attention import attend_to_prefix
from hierlm.nn.kernels.target import standing_for
from hierlm.nn.layer import Layer
from hierlm.nn.stream import Stream
from hierlm.parallel.recompute import run_layers
from hierlm.plan.live_bytes import LiveBytes
from tests.benchmarks.memory import peak_tensor_bytes

pytestmark = pytest.mark.skipif(linear.fused_product is None, reason="this build of torch has no oneDNN")

CPU = torch.device("cpu")
ROWS, HEADS, HEAD_DIM, BLOCK = 2, 3, 8, 16
CASES = [
    (Causal(), 40, 40),  # whole blocks and a rest
    (Causal(), 32, 90),  # behind a past
    (Causal(), 5, 5),  # less than a block
    (Causal(100), 40, 40),  # a window that ends nothing
    (OnePerGroup(3), 33, 99),
    (OnePerGroup(2), 20, 60),
    (GroupsSoFar(3, 0), 50, 17),
    (GroupsSoFar(4, 7), 40, 12),
]


@pytest.fixture(autouse=True)
def small_sizes_suit(monkeypatch):
    """On any processor."""
    monkeypatch.setattr(prefix_attention, "MOST_QUERIES", BLOCK)
    monkeypatch.setattr(prefix_attention, "LEAST_QUERIES", 1)
    monkeypatch.setattr(prefix_attention, "ENOUGH_QUERIES", BLOCK)
    monkeypatch.setattr(prefix_attention, "ENOUGH_KEY_NUMBERS", 1)
    monkeypatch.setattr(prefix_attention, "leaves_avx512_idle", lambda: True)


def operands(num_queries: int, num_keys: int, *, device: str = "cpu") -> list[Tensor]:
    """Queries, keys and values, laid out as projections leave them."""
    generator = torch.Generator().manual_seed(0)
    sizes = (num_queries, num_keys, num_keys)
    drawn = [torch.randn(ROWS, size, HEADS, HEAD_DIM, generator=generator).transpose(1, 2) for size in sizes]
    return [x.to(device).requires_grad_() for x in drawn]


def by_blocks(rule: Rule, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    output: Tensor = attend_to_prefix(queries, keys, values, *rule.prefixes(queries.shape[2], keys.shape[2]))
    return output


def under_the_mask(rule: Rule, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    mask = rule.mask(queries.shape[2], keys.shape[2], device=CPU)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def uses_blocks(rule: Rule, *inputs: Tensor) -> bool:
    with FlopCounterMode(display=False, custom_mapping={prefix_attention.operator: lambda *_, **__: 1}) as counter:
        rule.attend(*inputs)
    return prefix_attention.operator in counter.get_flop_counts().get("Global", {})


@pytest.mark.parametrize(("rule", "num_queries", "num_keys"), CASES)
def test_outputs_and_gradients_are_those_of_masked_attention(rule, num_queries, num_keys):
    inputs = operands(num_queries, num_keys)
    found, expected = by_blocks(rule, *inputs), under_the_mask(rule, *inputs)
    torch.testing.assert_close(found, expected)
    laid_out_otherwise = torch.randn(found.shape), torch.randn(HEADS, 1, 1).expand(found.shape)
    for of_output in laid_out_otherwise:
        gradients = (torch.autograd.grad(output, inputs, of_output, retain_graph=True) for output in (found, expected))
        for mine, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_one_input_alone_can_be_trained():
    queries, keys, values = operands(40, 40)
    by_blocks(Causal(), queries.detach(), keys, values.detach()).sum().backward()
    found, keys.grad = keys.grad, None
    under_the_mask(Causal(), queries, keys, values).sum().backward()
    torch.testing.assert_close(found, keys.grad)


def test_what_was_seen_first_without_gradients_can_be_trained():
    prefix_attention._hiding.cache_clear()
    with torch.inference_mode():
        by_blocks(Causal(), *operands(40, 40))
    by_blocks(Causal(), *operands(40, 40)).sum().backward()


@pytest.mark.parametrize(("rule", "num_queries", "num_keys"), CASES)
def test_a_rule_counts_the_keys_that_its_mask_shows(rule, num_queries, num_keys):
    mask, prefixes = rule.mask(num_queries, num_keys, device=CPU), rule.prefixes(num_queries, num_keys)
    assert [prefixes.num_visible(query) for query in range(num_queries)] == mask.sum(dim=1).tolist()


@pytest.mark.parametrize(("rule", "num_queries", "num_keys"), CASES)
def test_every_rule_goes_this_way_when_there_are_queries_enough(rule, num_queries, num_keys):
    inputs = operands(num_queries, num_keys)
    assert uses_blocks(rule, *inputs) == (num_queries >= BLOCK)
    torch.testing.assert_close(rule.attend(*inputs), under_the_mask(rule, *inputs))


def test_behind_a_window_masks_are_used():
    """But for the first window, which is as without."""
    rule, inputs = Causal(BLOCK - 1), operands(40, 40)
    assert not uses_blocks(rule, *inputs)
    rule = Causal(BLOCK + 1)
    assert uses_blocks(rule, *inputs)
    torch.testing.assert_close(rule.attend(*inputs), under_the_mask(rule, *inputs))


def test_other_precisions_and_short_keys_are_left_to_torch(monkeypatch):
    queries, keys, _ = operands(40, 40)
    assert prefix_attention.is_fastest(queries, keys)
    assert not prefix_attention.is_fastest(queries.bfloat16(), keys.bfloat16())
    assert not prefix_attention.is_fastest(queries.double(), keys.double())
    monkeypatch.setattr(prefix_attention, "ENOUGH_KEY_NUMBERS", 40 * HEAD_DIM + 1)
    assert not prefix_attention.is_fastest(queries, keys)


def test_autocast_is_obeyed():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not prefix_attention.is_fastest(*operands(40, 40)[:2])


@pytest.mark.parametrize(("rule", "num_queries", "num_keys"), [*CASES, (Causal(BLOCK), 40, 40)])
def test_a_compiler_is_given_the_whole(rule, num_queries, num_keys):
    """One graph, in which it chooses its own kernels."""
    torch.compiler.reset()
    inputs = operands(num_queries, num_keys)
    found = torch.compile(rule.attend, backend="eager", fullgraph=True)(*inputs)
    torch.testing.assert_close(found, rule.attend(*inputs))


def test_it_is_an_operation_like_those_of_torch():
    """Its schema, its gradients and its shapes without data are as registered."""
    torch.library.opcheck(attend_to_prefix, (*operands(40, 40), *Causal().prefixes(40, 40)))


def bytes_held(device: str) -> tuple[int, int]:
    """Beside the inputs: between the passes, and with the gradients."""
    inputs, live = operands(40, 40, device=device), LiveBytes()
    live.ignore(inputs)
    with standing_for("cpu"), live:
        output = Causal().attend(*inputs)
        between = live.now
        output.sum().backward()
        return between, live.now


def test_no_scores_are_kept_and_the_plan_of_a_processor_knows():
    of_output, of_scores = ROWS * HEADS * 40 * HEAD_DIM * 4, ROWS * HEADS * 40 * 40 * 4
    between, with_gradients = bytes_held("cpu")
    assert of_output <= between < of_output + of_scores / 10
    assert (between, with_gradients) == bytes_held("meta")


def test_long_rows_need_no_square_of_their_length(monkeypatch):
    """Not even for a while: the longer the rows, the fewer queries has a block."""
    length, most = 100 * BLOCK, 50 * BLOCK * BLOCK
    monkeypatch.setattr(prefix_attention, "MOST_SCORES", most)
    blocks = prefix_attention._blocks(Causal().prefixes(length, length), num_queries=length)
    heights = [block.queries.stop - block.queries.start for block in blocks]
    assert sum(heights) == length
    assert max(height * block.num_seen for height, block in zip(heights, blocks, strict=True)) <= most
    inputs = operands(length, length)
    peak = peak_tensor_bytes(lambda: by_blocks(Causal(), *inputs).sum().backward())
    vectors = sum(x.nbytes for x in inputs)
    assert peak < 3 * vectors + 4 * 4 * most < length**2 * 4 / 2


def test_its_pairs_are_counted_as_those_of_other_kernels():
    from hierlm.costs.flops import _MORE_FORMULAS

    inputs = operands(40, 40)
    with FlopCounterMode(display=False, custom_mapping=_MORE_FORMULAS) as counter:
        by_blocks(Causal(), *inputs)
    assert counter.get_total_flops() == 2 * 2 * ROWS * HEADS * 40 * 40 * HEAD_DIM


def test_a_plan_for_a_gpu_does_not_take_it():
    inputs = operands(40, 40, device="meta")[:2]
    for target, suits in (("cuda", False), ("cpu", True)):
        with standing_for(target):
            assert prefix_attention.is_fastest(*inputs) == suits
    assert not prefix_attention.is_fastest(*inputs)


class Attending(Layer):
    def forward(self, stream, memory=None):
        heads = stream.hidden.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)
        output = Causal().attend(heads, heads * 2, heads * 3)
        return stream.with_hidden(output.transpose(1, 2).flatten(2)), memory


@pytest.mark.parametrize(("recompute", "times_forward"), [("none", 1), ("selective", 1), ("full", 2)])
def test_selective_recompute_does_not_repeat_it(recompute, times_forward):
    x = torch.randn(ROWS, 40, HEADS * HEAD_DIM, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping={prefix_attention.operator: lambda *_, **__: 1}) as counter:
        stream, _ = run_layers({0: Attending()}, Stream((x,)), (None,), recompute=recompute)
        stream.hidden.sum().backward()
    assert counter.get_flop_counts()["Global"][prefix_attention.operator] == times_forward
