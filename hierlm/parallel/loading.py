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
def own_files_read_plainly(engine: Any) -> Iterator[None]:
    """Inside, whatever `engine` reads of a checkpoint it is handed by `read_mapping`, and it looks at its own files.

    DeepSpeed lists the folder on every rank, reads the first rank's weights on every rank, and asks on every rank
    whether the optimizer files of all are there.
    """
    files, names, optimizer_names = engine.checkpoint_engine, engine.names_of_weights, engine.names_of_optimizers
    own = _OwnNames(engine)
    engine.checkpoint_engine = _PlainFiles(engine)
    engine.names_of_weights, engine.names_of_optimizers = own.weights, own.optimizers
    try:
        yield
    finally:
        engine.checkpoint_engine = files
        engine.names_of_weights, engine.names_of_optimizers = names, optimizer_names


class _OwnNames:
    """What stands for the lists that DeepSpeed makes by looking."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def weights(self, checkpoints_path: str, tag: str) -> list[str]:
        """This rank's in every place: of the list it takes the first, to look at, and its own."""
        own = self._engine.file_of_weights(checkpoints_path, tag)
        return [own] * self._engine.mpu.get_model_parallel_world_size()

    def optimizers(self, load_dir: str, tag: str, bf16_mode: bool) -> list[str]:
        """By rule; it opens its own alone, and a missing one is found there."""
        found: list[str] = self._engine.rules_for_optimizers(
            load_dir=load_dir,
            tag=tag,
            mp_rank=self._engine.mpu.get_model_parallel_rank(),
            dp_world_size=self._engine.mpu.get_data_parallel_world_size(),
            bf16_mode=bf16_mode,
        )
        return found


@overrides(CheckpointFiles)
class _PlainFiles(TorchCheckpointEngine):
    """Where DeepSpeed asks for its files to be read."""

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self._engine = engine
        self._first: tuple[str, dict[str, Any]] | None = None

    def load(self, path: str, map_location: Any = None) -> dict[str, Any]:
        """All of a file, in memory: what the engine keeps of it must outlive the file. `map_location` is the CPU.

        The first one, of the weights, it asks for twice: before it takes them it looks at what is in the file.
        """
        if self._first is not None and self._first[0] == path:
            return self._first[1]
        content = read_mapping(Path(path), is_mapped=False)
        self._first = self._first or (path, content)
        state = content.get(OPTIMIZER_STATE_DICT)
        if isinstance(state, dict) and isinstance(state.get(LOSS_SCALER), Sealed):
            state[LOSS_SCALER] = self._engine.optimizer.loss_scaler  # of fp32 and bf16 it is 1, whatever was saved
        return content
