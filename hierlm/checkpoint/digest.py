"""Two checksums of a checkpoint that do not depend on the layout that wrote it."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

from hierlm.checkpoint.canonical import CanonicalState, read_canonical
from hierlm.checkpoint.engine_files import WEIGHTS
from hierlm.checkpoint.tensor_archive import block_bytes


class Digest(TypedDict):
    """What `hierlm checkpoint digest` prints, besides the step."""

    weights_sha256: str
    optimizer_sha256: str


def digest(engine_dir: Path) -> Digest:
    """SHA-256 over `name, 0 byte, little-endian fp32 bytes` of every parameter, by sorted canonical name.

    The weights are the fp32 master copy. The optimizer's are the states of each parameter in the order that the
    optimizer's file names them (of AdamW the first, then the second moment), after what it has counted (of AdamW its
    updates).
    """
    state = read_canonical(engine_dir)
    counted = " ".join(map(str, state.counts.values())).encode()
    with ThreadPoolExecutor(2) as threads:
        weights = threads.submit(_sha256, state, (WEIGHTS,), b"")
        states = threads.submit(_sha256, state, state.state_names.states, counted)
        return Digest(weights_sha256=weights.result(), optimizer_sha256=states.result())


def _sha256(state: CanonicalState, kinds: Sequence[str], prefix: bytes) -> str:
    sha256 = hashlib.sha256(prefix)
    for name in state.names:
        for kind in kinds:
            sha256.update(name.encode() + b"\0")
            for block in state.blocks(name, kind):
                sha256.update(block_bytes(block.contiguous()))
    return sha256.hexdigest()
