"""DeepSpeed and megatron-core, imported without what they import along and is never used here.

Measured, with `hierlm.parallel.light_megatron`: 6.6 s of processor time at the start of every rank become 3.5 s.

DeepSpeed's autotuner, which has no place in a run, imports mlflow where it is installed. It helps where nobody has
imported DeepSpeed before: `hierlm.parallel.process`, the door to a run, does it through here. DeepSpeed is told its
accelerator, which it would else guess aloud.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import hierlm.parallel.light_megatron  # noqa: F401 - before anything else imports megatron-core


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Inside, the package counts as not installed, unless somebody has imported it."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


os.environ.setdefault("DS_ACCELERATOR", "cuda" if os.path.exists("/dev/nvidiactl") else "cpu")
with _without("mlflow"):
    import deepspeed  # noqa: F401 - for those who import it from here
