"""What a switch from one phase to the next must leave alone, asserted at run time.

A phase says what changes; everything else stays to the last bit: weights, the optimizer's state (unless the phase
resets it: then it is zero) and its settings, recurrent memory, and what an evaluation of fixed rows gives with the
train-time switches of the phase before.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from hierlm.parallel.memory_lanes import MemoryLanes
from hierlm.parallel.seams.parameters import stored

OPTIMIZER_STATE = "optimizer state"
PROBE_TOKENS = 16
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Kept = Mapping[str, Any]
"""Name -> a fingerprint of what this rank holds of it."""


class SwitchError(RuntimeError):
    """A switch changed what no phase may change. A bug: training is not gone on with."""


def kept_over_switch(engine: Any, lanes: MemoryLanes, *, evaluated: Tensor) -> Kept:
    """What this rank holds at a switch; `evaluated` are the nats of fixed rows. The same before and after."""
    optimizer = engine.basic_optimizer
    parameters = [stored(parameter) for parameter in engine.module.parameters()]
    states = (value for state in optimizer.state.values() for value in state.values())
    memories = {} if lanes.is_empty else lanes.state_by_global_row(first_row=0).memories
    return {
        "weights": fingerprint([*parameters, *optimizer.state]),  # the state's keys: full-precision weights
        OPTIMIZER_STATE: fingerprint(states),
        "optimizer settings": optimizer.settings(),
        "recurrent memory": fingerprint(tensor for memory in memories.values() for tensor in memory),
        "evaluation of fixed rows": fingerprint([evaluated]),
    }


def require_kept(before: Kept, after: Kept, *, phase: str, resets_optimizer: bool) -> None:
    """SwitchError with all that differs; optimizer state that is reset must be zero."""
    expected = {**before, OPTIMIZER_STATE: fingerprint([])} if resets_optimizer else before
    changed = [name for name in expected if after[name] != expected[name]]
    if changed:
        raise SwitchError(f"the switch to phase {phase} changed {', '.join(changed)}, which no switch may change")


def probe_rows(vocab_size: int, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Fixed tokens and targets, int64 [1, T]."""
    tokens = torch.arange(PROBE_TOKENS + 1, device=device)[None] * 7919 % vocab_size
    return tokens[:, :-1], tokens[:, 1:]


def fingerprint(tensors: Iterable[Tensor]) -> int:
    """A sum over all bit patterns, weighted by the tensor's place: any one change shows. All zeros and nothing: 0."""
    sums = (
        place * int(tensor.detach().reshape(-1).view(BITS[tensor.element_size()]).sum(dtype=torch.int64))
        for place, tensor in enumerate((t for t in tensors if isinstance(t, Tensor)), start=1)
    )
    return sum(sums) % 2**64
