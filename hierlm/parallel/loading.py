"""DeepSpeed's load without its unpickler: what its files hold comes through our own door, as plain data.

So going on from a checkpoint runs nothing that its writer put there (docs/decisions/checkpoint-door.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hierlm.checkpoint.tensor_file import Sealed, read_mapping
from hierlm.parallel.seams.deepspeed_names import LOSS_SCALER, OPTIMIZER_STATE_DICT, TorchCheckpointEngine
from hierlm.parallel.seams.engine import CheckpointFiles
from hierlm.parallel.seams.handle import overrides


@contextmanager
def files_read_plainly(engine: Any) -> Iterator[None]:
    """Inside, whatever `engine` reads of a checkpoint it is handed by `read_mapping`."""
    own = engine.checkpoint_engine
    engine.checkpoint_engine = _PlainFiles(engine)
    try:
        yield
    finally:
        engine.checkpoint_engine = own


@overrides(CheckpointFiles)
class _PlainFiles(TorchCheckpointEngine):
    """Where DeepSpeed asks for its files to be read."""

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self._engine = engine

    def load(self, path: str, map_location: Any = None) -> dict[str, Any]:
        """All of a file, in memory: what the engine keeps of it must outlive the file. `map_location` is the CPU."""
        content = read_mapping(Path(path), is_mapped=False)
        state = content.get(OPTIMIZER_STATE_DICT)
        if isinstance(state, dict) and isinstance(state.get(LOSS_SCALER), Sealed):
            state[LOSS_SCALER] = self._engine.optimizer.loss_scaler  # of fp32 and bf16 it is 1, whatever was saved
        return content
