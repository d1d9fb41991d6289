"""Objects between ranks: through the first one, in pieces that are never large.

torch's own `all_gather_object` hands what N ranks say to N ranks, each padded to the longest: where rank 0 alone has a
megabyte to say, each of 4,096 ranks receives four gigabytes. Here N ranks send N messages to the first one.
"""

import pickle
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hierlm.checkpoint.team import Team

Group = dist.ProcessGroup

PIECE_BYTES = 1 << 19
"""The longest message; what is longer takes several."""

_HEAD_BYTES = 8
"""At the start of what one rank says to another: how long it is."""


def team_of(group: Group | None = None) -> Team:
    """All ranks, talking through a group of all of them; None: the one of the training thread."""
    return Team(
        rank=dist.get_rank(),
        size=dist.get_world_size(),
        gather=lambda item: gathered(item, group=group),
        tell=lambda item: told(item, group=group),
        scatter=lambda items: scattered(items, group=group),
    )


def gathered(item: Any, *, group: Group | None = None) -> list[Any]:
    """What every rank passed, in rank order, on the first one; nothing elsewhere. Every rank calls it."""
    ours = _packed(item)
    length = _longest(len(ours), group)
    parts: list[list[Tensor]] = []
    for start in range(0, length, PIECE_BYTES):
        piece = _filled(ours[start : start + PIECE_BYTES], min(PIECE_BYTES, length - start)).to(_device(group))
        theirs = [torch.empty_like(piece) for _ in range(dist.get_world_size())] if dist.get_rank() == 0 else None
        dist.gather(piece, theirs, dst=0, group=group)
        parts.append([part.cpu() for part in theirs or ()])
    return [_unpacked(torch.cat(of_rank)) for of_rank in zip(*parts, strict=True)]


def told(item: Any, *, group: Group | None = None) -> Any:
    """What the first rank passed. Every rank calls it."""
    ours = _packed(item) if dist.get_rank() == 0 else b""
    length = _longest(len(ours), group)
    pieces = []
    for start in range(0, length, PIECE_BYTES):
        piece = _filled(ours[start : start + PIECE_BYTES], min(PIECE_BYTES, length - start)).to(_device(group))
        dist.broadcast(piece, src=0, group=group)
        pieces.append(piece.cpu())
    return _unpacked(torch.cat(pieces))


def scattered(items: Sequence[Any], *, group: Group | None = None) -> Any:
    """This rank's of the items that the first one passed, one for each rank. Every rank calls it."""
    ours = [_packed(item) for item in items] if dist.get_rank() == 0 else []
    length = _longest(max(map(len, ours), default=0), group)
    pieces = []
    for start in range(0, length, PIECE_BYTES):
        size, device = min(PIECE_BYTES, length - start), _device(group)
        piece = torch.empty(size, dtype=torch.uint8, device=device)
        theirs = [_filled(one[start : start + PIECE_BYTES], size).to(device) for one in ours] or None
        dist.scatter(piece, theirs, src=0, group=group)
        pieces.append(piece.cpu())
    return _unpacked(torch.cat(pieces))


def _longest(length: int, group: Group | None) -> int:
    """The largest of all ranks' lengths: all send as many pieces."""
    longest = torch.tensor([length], device=_device(group))
    dist.all_reduce(longest, op=dist.ReduceOp.MAX, group=group)
    return int(longest.item())


def _device(group: Group | None) -> torch.device:
    """Where a group's messages lie."""
    is_of_gpus = dist.get_backend(group) == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if is_of_gpus else torch.device("cpu")


def _packed(item: Any) -> bytes:
    content = pickle.dumps(item)
    return len(content).to_bytes(_HEAD_BYTES, "little") + content


def _unpacked(message: Tensor) -> Any:
    content = message.numpy().tobytes()
    length = int.from_bytes(content[:_HEAD_BYTES], "little")
    return pickle.loads(content[_HEAD_BYTES : _HEAD_BYTES + length])


def _filled(content: bytes, size: int) -> Tensor:
    """uint8 [size], zeros behind the content."""
    return torch.frombuffer(bytearray(content.ljust(size, b"\0")), dtype=torch.uint8)
