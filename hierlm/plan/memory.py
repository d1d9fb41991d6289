"""Bytes of every rank: what it holds for good, what its micro-batches in flight keep, and the worst moment of a step.

A pipeline stage s of p has min(m, p - s) of its m micro-batches in flight (1F1B, Narayanan et al. 2021, 2104.04473,
section 2.2). Ranks of one stage differ by padding only, so a stage stands for all of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from hierlm.config.run_config import RunConfig
from hierlm.optim.optimizers import optimizer
from hierlm.optim.state_names import StateNames
from hierlm.parallel.zero import effective_stage
from hierlm.phases.config import PhaseConfig
from hierlm.plan.footprint import Footprint, Profile
from hierlm.plan.zero_memory import Holdings, Kind, holdings


@dataclass(frozen=True)
class RankBytes:
    """Bytes at the worst moment of a step; they add up to the peak."""

    moment: str
    weights: int
    gradients: int
    optimizer: int  # fp32 copies and moments
    activations: int  # kept for the backward passes of all micro-batches in flight, recurrent memory included
    temporary: int  # made and freed within the moment: a layer's workspace, buckets, gathered weights
    logits: int  # logits and what the loss makes of them

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.temporary + self.logits


@dataclass(frozen=True)
class StageMemory:
    """One pipeline stage in one phase."""

    stage: int
    layers: range
    num_values: int  # weights a rank of it holds
    in_flight: int
    kept_per_micro_batch: int
    recurrent_memory: int
    logits: int  # logits and what the loss makes of them, when it does; 0 but on the last stage
    peak: RankBytes

    def document(self) -> dict[str, Any]:
        """As plain data."""
        plain = {name: getattr(self, name) for name in ("stage", "num_values", "in_flight", "kept_per_micro_batch")}
        plain |= {"recurrent_memory": self.recurrent_memory, "logits_at_loss": self.logits}
        peak = {**asdict(self.peak), "total": self.peak.total}
        layers = [self.layers.start, self.layers.stop - 1]
        return {**plain, "layers": layers, "peak_bytes": peak}


def kind_of(config: RunConfig[Any], phase: PhaseConfig, *, on_gpu: bool) -> Kind:
    """What decides the accounting of a config's layout in one phase."""
    layout = config.parallel
    return Kind(
        stage=effective_stage(config),
        bf16=config.train.precision == "bf16",
        dp_degree=layout.data_parallel_degree,
        pipeline=layout.pipeline_parallel_degree > 1,
        micro_batches=layout.grad_accumulation_steps(global_batch_size=phase.global_batch_size),
        offload=layout.offload,
        num_states=len(StateNames.of(config.optim.name).states),
        num_temporaries=getattr(optimizer(config.optim.name), "TEMPORARIES", {}).get("cuda" if on_gpu else "cpu", 0),
        full_reduction=layout.reduce_precision == "fp32",
    )


def stage_memories(
    config: RunConfig[Any], phase: PhaseConfig, *, profile: Profile, boundaries: Sequence[int], on_gpu: bool
) -> list[StageMemory]:
    """Every stage of a layout in one phase; `profile` is that of its tensor degree, recompute and micro-batch."""
    kind = kind_of(config, phase, on_gpu=on_gpu)
    stages = [range(start, stop) for start, stop in pairwise(boundaries)]
    return [_Stage(profile, kind, stages, number).memory() for number in range(len(stages))]


class _Stage:
    """The moments of one stage's step."""

    def __init__(self, profile: Profile, kind: Kind, stages: Sequence[range], number: int) -> None:
        self._profile, self._kind, self._number = profile, kind, number
        self._layers, self._is_last = stages[number], number == len(stages) - 1
        self._in_flight = min(kind.micro_batches, len(stages) - number)
        largest = max(profile.weights[index].largest for index in self._layers)
        self._values = self._weights_by_layer()
        self._waits_elsewhere = self._gradients_that_wait_elsewhere()
        total, largest_layer = sum(self._values.values()), max(self._values.values())
        self._holds: Holdings = holdings(kind, values=total, largest=largest, largest_layer=largest_layer)
        self._memory = kind.micro_batches * sum(self._of(index).memory for index in self._layers)
        # what arrives is kept as received and as copied for the pass
        self._received = 0 if number == 0 else 2 * profile.layers[self._layers.start - 1].output
        sent = 0 if self._is_last else profile.layers[self._layers.stop - 1].output
        self._kept = sum(self._of(index).kept for index in self._layers) + self._received
        # DeepSpeed's last stage forgets the logits and inputs of its two buffers only when they are filled again
        self._left_over = profile.left_at_loss if self._is_last and kind.pipeline else 0
        other_buffer = self._left_over + self._received if self._left_over and kind.micro_batches > 1 else 0
        self._buffers = self._received // 2 + sent + other_buffer

    def memory(self) -> StageMemory:
        moments = list(self._moments())
        return StageMemory(
            stage=self._number,
            layers=self._layers,
            num_values=sum(self._values.values()),
            in_flight=self._in_flight,
            kept_per_micro_batch=self._kept,
            recurrent_memory=self._memory,
            logits=max(moment.logits for moment in moments),
            peak=max(moments, key=lambda moment: moment.total),
        )

    def _moments(self) -> Iterator[RankBytes]:
        """The first backward pass finds all forward passes in flight and no gradients; later ones find gradients."""
        micro_batches = self._kind.micro_batches
        yield from self._passes(in_flight=self._in_flight, is_first=True)
        if micro_batches > 1:
            later = self._in_flight - (micro_batches == self._in_flight)
            yield from self._passes(in_flight=later, is_first=False)
        num_values = sum(self._values.values())
        with_gradients = (("gradient reduction", self._holds.reduction), ("optimizer update", self._holds.update))
        for name, held in with_gradients:
            work = held - self._gradients_of(num_values) + self._buffers
            yield self._moment(name, kept=0, work=work, gradients=num_values)
        yield RankBytes("building the model", 0, 0, 0, 0, self._holds.building, 0)

    def _passes(self, *, in_flight: int, is_first: bool) -> Iterator[RankBytes]:
        """One micro-batch forward and back, with `in_flight` there at its loss."""
        gradients = 0 if is_first else sum(self._values.values())
        kept = (in_flight - 1) * self._kept + self._received
        for index in self._layers:
            work = self._of(index).forward_peak + self._buffers
            yield self._moment(f"forward of layer {index}", kept=kept, work=work, gradients=gradients)
            kept += self._of(index).kept
        if self._is_last:
            yield self._loss(kept=kept, work=self._buffers, gradients=gradients)
        # where gradients are scattered, and at stage 3, one goes into its bucket at once
        stays = is_first and self._kind.stage <= 1 and not self._kind.is_scattered
        for index in reversed(self._layers):
            peak = self._of(index).first_backward_peak if stays else self._of(index).backward_peak
            peak = max(peak - self._waits_elsewhere[index], 0)
            work = peak + self._holds.during_backward + self._buffers + self._left_over
            yield self._moment(f"backward of layer {index}", kept=kept, work=work, gradients=gradients)
            gradients += self._values[index] if is_first else 0
            kept -= self._of(index).kept

    def _loss(self, *, kept: int, work: int, gradients: int) -> RankBytes:
        logits = self._profile.logits
        moment = self._moment("loss", kept=kept - logits, work=work, gradients=gradients)
        return RankBytes(**{**asdict(moment), "logits": logits + self._profile.loss_peak + self._left_over})

    def _moment(self, name: str, *, kept: int, work: int, gradients: int) -> RankBytes:
        """`gradients` is the number of weights that have one."""
        return RankBytes(
            moment=name,
            weights=self._holds.weights,
            gradients=self._holds.gradients_always + self._gradients_of(gradients),
            optimizer=self._holds.optimizer,
            activations=kept + self._memory,
            temporary=work,
            logits=0,
        )

    def _gradients_of(self, num_values: int) -> int:
        return int(self._holds.gradients_per_value * num_values)

    def _of(self, index: int) -> Footprint:
        return self._profile.layers[index]

    def _gradients_that_wait_elsewhere(self) -> dict[int, int]:
        """Layer -> bytes in its backward peaks that are not there in this stage.

        The first gradient of a tied weight waits for those of its other uses, and each of them makes a sum with it. The
        profile is of all layers in one place; here only uses within the stage are waited for.
        """
        uses: dict[tuple[int, str], list[int]] = {}
        values: dict[tuple[int, str], int] = {}
        for index, weights in enumerate(self._profile.weights):
            for weight in weights.borrowed:
                uses.setdefault((weight.owner, weight.name), [weight.owner]).append(index)
                values[weight.owner, weight.name] = weight.values
        waiting = dict.fromkeys(self._layers, 0)
        for key, everywhere in uses.items():
            here = [index for index in everywhere if index in self._layers] or [0]
            for index in self._layers:
                waits = min(everywhere) <= index < max(everywhere) and not min(here) <= index < max(here)
                num_copies = 1 + (index in everywhere)
                waiting[index] += num_copies * self._kind.working * values[key] if waits else 0
        return waiting

    def _weights_by_layer(self) -> dict[int, int]:
        """Values; what is borrowed counts with its owner, or with the first of the stage to borrow it."""
        counted: set[tuple[int, str]] = set()
        values = {}
        for index in self._layers:
            weights = self._profile.weights[index]
            copies = {(w.owner, w.name): w.values for w in weights.borrowed if w.owner not in self._layers}
            values[index] = weights.own + sum(size for key, size in copies.items() if key not in counted)
            counted |= copies.keys()
        return values
