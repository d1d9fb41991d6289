"""Questions that DeepSpeed's optimizers put to numbers on a device, and so wait for it once or more a step.

While `noting` is entered they are answered without a look: the step goes on as if the norm were finite, and whoever is
given the condition sees to it on the device that nothing changes where it is not.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from hierlm.parallel.seams.handle import difference
from hierlm.parallel.seams.seam import Seam, has, is_there, refuse, thing_at

_SKIPS = "it waits for the device to learn whether a step is left out"
_BF16 = "deepspeed.runtime.bf16_optimizer"
NEWER = ">=0.19.8"
IS_INVALID = tuple(
    Seam(owner, "is_invalid_grad_norm", _SKIPS, NEWER)
    for owner in (_BF16, "deepspeed.runtime.zero.stage_1_and_2", "deepspeed.runtime.zero.stage3")
)
CLIP = Seam(
    _BF16, "clip_tensors_by_global_norm", "it waits for the device to learn whether gradients are clipped", NEWER
)

Note = Callable[[Tensor], None]
_note: ContextVar[Note | None] = ContextVar("note", default=None)


def problems_of_questions() -> Iterator[str]:
    """One line for each that is not there."""
    for seam in (*IS_INVALID, CLIP):
        if seam.applies and not (is_there(seam.owner) and has(thing_at(seam.owner), seam.name)):
            yield seam.problem()


def answer_without_waiting() -> None:
    """Put ours in place of the functions; outside of `noting` they do what they did."""
    for seam in IS_INVALID:
        _replace(seam, _is_invalid(getattr(thing_at(seam.owner), seam.name)))
    _replace(CLIP, _clip(getattr(thing_at(CLIP.owner), CLIP.name)))


@contextmanager
def noting(note: Note) -> Iterator[None]:
    """Inside, `note` is called with bool []: whether a norm is not one to follow."""
    token = _note.set(note)
    try:
        yield
    finally:
        _note.reset(token)


def _replace(seam: Seam, ours: Callable[..., Any]) -> None:
    module = thing_at(seam.owner)
    theirs = getattr(module, seam.name)
    if getattr(theirs, "__module__", "") == __name__:
        return
    if differs := difference(theirs, ours):
        refuse([seam.problem(differs)])
    setattr(module, seam.name, ours)


def _is_invalid(theirs: Callable[..., Any]) -> Callable[..., Any]:
    def is_invalid_grad_norm(norm: Any) -> bool:
        note = _note.get()
        if note is None or not isinstance(norm, Tensor):
            return bool(theirs(norm))
        note((~torch.isfinite(norm) | (norm < 0)).any())
        return False

    return is_invalid_grad_norm


def _clip(theirs: Callable[..., Any]) -> Callable[..., Any]:
    def clip_tensors_by_global_norm(
        input_tensors: Sequence[Tensor],
        max_norm: float = 1.0,
        global_norm: Any = None,
        mpu: Any = None,
        eps: float = 1e-6,
    ) -> Any:
        if _note.get() is None or not isinstance(global_norm, Tensor):
            return theirs(input_tensors, max_norm=max_norm, global_norm=global_norm, mpu=mpu, eps=eps)
        factor = (max_norm / (global_norm + eps)).clamp(max=1.0)
        for tensor in input_tensors:
            tensor.detach().mul_(factor)
        return global_norm

    return clip_tensors_by_global_norm
