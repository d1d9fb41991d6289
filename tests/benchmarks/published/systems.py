"""The systems that were measured, as far as papers and settings say what they do. Facts of a system, not of a row.

- Megatron-LM (2104.04473; 2205.05198): kernels fused for bias and GeLU, for bias, dropout and residual sum, and for
  scale, mask and softmax (2104.04473, 4.2); attention's scores are laid out in memory; pipelines interleave, with
  messages cut over tensor-parallel ranks and gathered behind (4.1); gradients are summed after the last backward pass,
  nothing is partitioned. Of what was not published, micro-batch and number of interleaved stretches, the plan takes
  what it finds fastest of what fits, as one would on a cluster. 2205.05198 interleaves three stretches (section 6.2).
- llm-foundry: PyTorch's FSDP, each block a unit, everything in bf16, composer's default of fetching weights only behind
  the gradients of the block before (BACKWARD_POST); single PyTorch kernels; FlashAttention of the first kind, in
  Triton; torch metrics look at the logits of training in fp32 once more.
"""

from typing import NamedTuple

from hierlm.plan.schedule import Schedule
from tests.benchmarks.published.rows import Row

FIRST_FLASH_SHARE = {"a100": 0.25, "h100": 0.25 * 0.35 / 0.615}
"""Of the peak that FlashAttention of the first kind reaches, on products that it really makes (half of a causal
square): 0.25 to 0.40 on an A100 (2307.08691, introduction), the lower end for causal rows, whose blocks on the diagonal
are half empty. On an H100 the second kind reaches 0.35 (2407.08608, abstract) instead of 0.50 to 0.73 on an A100; the
first kind is taken to lose as much."""


class System(NamedTuple):
    """What it does with a layer."""

    name: str
    flash_share: float | None  # of the peak; None: scores are laid out
    drops_out: bool
    gradient_moves: int  # bytes read and written of each weight in a micro-batch, to add up, flatten and cast
    logit_bytes: int  # read and written of each logit by the loss, forward, backward and metrics
    schedule: Schedule


MEGATRON = Schedule(buckets_leave_early=False, gathers_ahead_forward=False, gathers_ahead_backward=False)
FSDP = Schedule(buckets_leave_early=True, gathers_ahead_forward=True, gathers_ahead_backward=False)


def system_of(row: Row) -> System:
    """By the source of a row; ValueError where nothing is known of it."""
    if "arXiv" in row.source:
        # gradients in half precision: what is there, what comes, the sum; logits: made, read, gradient made, read
        return System("Megatron-LM", None, True, gradient_moves=6, logit_bytes=10, schedule=MEGATRON)
    if "llm-foundry" in row.source:
        # a unit's weights are cast, received and its gradients joined, sent and received, 2 bytes each
        share = FIRST_FLASH_SHARE["h100" if row.device.startswith("h") else "a100"]
        return System("llm-foundry", share, False, gradient_moves=10, logit_bytes=10 + 16, schedule=FSDP)
    raise ValueError(f"nothing is known of {row.source}")


def stretches_of(row: Row) -> tuple[int, ...]:
    """How many interleaved stretches a stage may have had."""
    if row.degrees["pipeline"] == 1:
        return (1,)
    if "interleaved pipeline for" in row.source:
        return (3,) if row.model in row.source.partition("interleaved pipeline for")[2] else (1,)
    per_stage = row.num_layers // row.degrees["pipeline"]
    return tuple(number for number in range(1, per_stage + 1) if per_stage % number == 0)
