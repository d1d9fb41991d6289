"""What DeepSpeed holds besides a rank's working weights, by ZeRO stage and precision: pure arithmetic.

Read from deepspeed 0.19 (runtime/engine.py, zero/stage_1_and_2.py, zero/stage3.py, bf16_optimizer.py) with the settings
of `hierlm.parallel.zero`, and compared with allocator traces of each kind (`tests/benchmarks/bench_plan.py`).

    kind                    partitioned over dp ranks      whole on every rank
    fp32, ZeRO 0            nothing                        states, gradients
    fp32, ZeRO 1            a second copy, states          gradients
    bf16, ZeRO 0 and 1      fp32 copy, states              fp32 gradients (alone bf16 ones too)
    ZeRO 2                  fp32 copy, states              gradients; buckets of them with one micro-batch a step
    ZeRO 3                  the same and the weights       the reduction bucket

States are the optimizer's (AdamW's two moments). Lengths are numbers of values ("values") until they are multiplied by
bytes.
"""

from dataclasses import dataclass, replace
from typing import Literal

from hierlm.optim.state_names import StateNames
from hierlm.parallel.zero import LARGEST_BUCKET, MOST_UNDER_WAY, bucket_share

FULL = 4
"""Bytes of an fp32 value."""

ADAMW_STATES = len(StateNames.of("adamw").states)
"""Its moments, fp32 each, as every optimizer's states are."""

ENGINE_BUFFER = 500_000_000
"""Values DeepSpeed's engine reduces in one message where ZeRO does not do it (`elements_per_buffer`)."""

MOST_GATHERED = 1_000_000_000
"""Values ZeRO 3 leaves gathered between layers (`stage3_max_live_parameters`)."""


@dataclass(frozen=True)
class Kind:
    """What decides the accounting."""

    stage: int  # ZeRO's, as it takes effect
    bf16: bool
    dp_degree: int
    pipeline: bool
    micro_batches: int
    offload: Literal["none", "optimizer", "parameters"] = "none"
    num_states: int = ADAMW_STATES  # tensors that the optimizer keeps of each parameter
    num_temporaries: int = 0  # fp32 values that the optimizer's update makes beside each weight
    full_reduction: bool = False  # gradients travel in fp32 whatever the weights are

    @property
    def working(self) -> int:
        """Bytes of a value in the forward pass."""
        return 2 if self.bf16 else FULL

    @property
    def is_scattered(self) -> bool:
        """Whether `hierlm.parallel.scattered_gradients` adds gradients up and exchanges them."""
        return self.stage in (1, 2) and self.dp_degree > 1

    @property
    def gradient_bytes(self) -> int:
        """Of a value on its way to the other ranks."""
        return FULL if self.full_reduction else self.working

    @property
    def keeps_fp32_gradients(self) -> bool:
        """DeepSpeed's BF16_Optimizer, which it takes for bf16 at stage 1."""
        return self.bf16 and self.stage == 1


@dataclass(frozen=True)
class Holdings:
    """Bytes of one rank, from the second step on."""

    weights: int
    optimizer: int
    gradients_always: int  # buffers that outlive a step
    gradients_per_value: float  # of each weight, from its backward pass on
    during_backward: int  # buckets and gathered weights
    reduction: int  # at the end of the backward pass, gradients included that do not outlive the step
    update: int  # in the optimizer's step, the same gradients included
    building: int  # before training: the most while the model is built and partitioned


def holdings(kind: Kind, *, values: int, largest: int, largest_layer: int) -> Holdings:
    """`values` weights on this rank, the largest of them with `largest` values, the largest layer with `largest_layer`.

    What is offloaded counts nowhere.
    """
    found = _on_the_device(kind, values=values, largest=largest, largest_layer=largest_layer)
    if kind.offload == "none":
        updated = -(-values // kind.dp_degree) if kind.stage >= 1 else values
        return replace(found, update=found.update + FULL * kind.num_temporaries * updated)
    return replace(found, optimizer=0, weights=0 if kind.offload == "parameters" else found.weights)


def _on_the_device(kind: Kind, *, values: int, largest: int, largest_layer: int) -> Holdings:
    share = -(-values // kind.dp_degree)
    bucket = min(LARGEST_BUCKET, values)
    if kind.stage == 3:
        sizes = {"largest": largest, "largest_layer": largest_layer}
        return _partitioned_weights(kind, values=values, share=share, bucket=bucket, **sizes)
    if kind.is_scattered:
        return _scattered_gradients(kind, values=values, share=share, largest=largest)
    if kind.stage == 2:
        return _partitioned_gradients(kind, values=values, share=share, bucket=bucket, largest=largest)
    if kind.keeps_fp32_gradients:
        return _fp32_gradients(kind, values=values, share=share, largest=largest)
    if kind.stage == 1:
        return _partitioned_moments(kind, values=values, share=share, bucket=bucket, largest=largest)
    message = min(values, ENGINE_BUFFER) if kind.dp_degree > 1 else 0  # alone there is nobody to reduce with
    return Holdings(
        weights=FULL * values,
        optimizer=kind.num_states * FULL * values,
        gradients_always=0,
        gradients_per_value=FULL,
        during_backward=0,
        reduction=FULL * (values + message),
        update=FULL * (values + largest),
        building=FULL * values,
    )


def _partitioned_moments(kind: Kind, *, values: int, share: int, bucket: int, largest: int) -> Holdings:
    """fp32 at stage 1: gradients stay whole until they are copied into the bucket, reduced, and cut."""
    again = values if kind.pipeline else 0  # the pipeline reduces after the pass, into a second bucket
    return Holdings(
        weights=FULL * values,
        optimizer=(1 + kind.num_states) * FULL * share,
        gradients_always=0,
        gradients_per_value=FULL,
        during_backward=FULL * bucket,
        reduction=FULL * (values + bucket + again),
        update=FULL * (values + share + largest + again),
        building=FULL * (values + 2 * share),
    )


def _fp32_gradients(kind: Kind, *, values: int, share: int, largest: int) -> Holdings:
    """bf16 at stages 0 and 1: gradients are added up in whole fp32 buffers and reduced as bf16."""
    message = min(values, ENGINE_BUFFER)
    return Holdings(
        weights=2 * values,
        optimizer=(1 + kind.num_states) * FULL * share,
        gradients_always=FULL * values,
        gradients_per_value=2,
        during_backward=0,
        reduction=2 * values + (FULL + 2) * message,
        update=2 * values + FULL * largest,
        building=FULL * values + 2 * values,
    )


def _partitioned_gradients(kind: Kind, *, values: int, share: int, bucket: int, largest: int) -> Holdings:
    """Stage 2: a full bucket is reduced at once, through a copy of it, and only the own share is kept."""
    flushes = bucket < values
    message = kind.working * bucket
    kept = FULL * share
    return Holdings(
        weights=kind.working * values,
        optimizer=(1 + kind.num_states) * FULL * share,
        gradients_always=0,
        gradients_per_value=FULL / kind.dp_degree,
        during_backward=message * (2 if flushes else 1) + kind.working * largest,
        reduction=2 * message + kept + kind.working * largest,
        update=kept + FULL * share,
        building=FULL * values + kind.working * values,
    )


def _scattered_gradients(kind: Kind, *, values: int, share: int, largest: int) -> Holdings:
    """Stages 1 and 2 over several ranks: fp32 sums over micro-batches, exchanged bucket by bucket.

    Each bucket is freed when it has been exchanged: with one micro-batch a step the sums are never there as a whole.
    In bf16 at stage 1 they are DeepSpeed's, and always there.
    """
    bucket = max(bucket_share(values), largest)
    is_whole = kind.micro_batches > 1 or kind.pipeline
    under_way = FULL * MOST_UNDER_WAY * bucket
    lasting = kind.keeps_fp32_gradients
    summed = 0 if lasting else FULL * (values if is_whole else share + bucket)
    return Holdings(
        weights=kind.working * values,
        optimizer=(1 + kind.num_states) * FULL * share,
        gradients_always=FULL * values if lasting else 0,
        gradients_per_value=summed / values,
        during_backward=under_way + kind.working * largest,
        reduction=under_way + summed,
        update=FULL * largest + (0 if lasting else FULL * share),
        building=FULL * values + (2 * values if kind.bf16 else FULL * 2 * share),
    )


def _partitioned_weights(
    kind: Kind, *, values: int, share: int, bucket: int, largest: int, largest_layer: int
) -> Holdings:
    """Stage 3: bucket and gradient share are there for good; weights are gathered on the way.

    Layers are partitioned one after another (`hierlm.parallel.stage_3_partition`): at most two are whole.
    """
    gathered = kind.working * min(values, MOST_GATHERED + largest)
    message = kind.gradient_bytes * bucket
    return Holdings(
        weights=kind.working * share,
        optimizer=(1 + kind.num_states) * FULL * share,
        gradients_always=FULL * share + message,
        gradients_per_value=0,
        during_backward=gathered + (message if bucket < values else 0) + kind.working * largest,
        reduction=gathered + message + kind.working * largest,
        update=FULL * share,
        building=(kind.working + FULL) * share + 2 * FULL * largest_layer,
    )
