"""One file of weights and one of configuration: what `hierlm.models.load` reads, and any safetensors reader."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

from torch import Tensor

from hierlm import models, yaml12
from hierlm.checkpoint.canonical import read_canonical, require_known_names
from hierlm.checkpoint.tensor_archive import block_bytes
from hierlm.durable import rename
from hierlm.errors import UserError
from hierlm.interpolation import resolved_values
from hierlm.models.assembly import canonical_names
from hierlm.models.config import ModelConfig
from hierlm.plugins import take_up

WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"


def export(engine_dir: Path, *, run_config: Path, output: Path) -> dict[str, int]:
    """Write the fp32 weights and the `model`, `seed` and `plugins` parts of the config; parameter and byte counts.

    UserError if the checkpoint is not of the run's model, or if `output` holds something else already or cannot be
    written.
    """
    state = read_canonical(engine_dir)
    config: Any = yaml12.load(run_config.read_text(encoding="utf-8"))
    require_known_names(state.names, canonical_names(model_of(config)), where=engine_dir.parent)
    check_output(output, names=(WEIGHTS, CONFIG))
    try:
        output.mkdir(parents=True, exist_ok=True)
        shapes = {name: state.shape(name) for name in state.names}
        num_parameters = write_safetensors(output / WEIGHTS, shapes, partial(state.blocks, state="fp32"))
        parts = {key: config[key] for key in ("seed", "plugins", "model") if key in config}
        (output / CONFIG).write_text(yaml12.dump(parts), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror})") from None
    return {"parameters": num_parameters, "bytes": (output / WEIGHTS).stat().st_size}


def model_of(run_config: Mapping[str, Any]) -> ModelConfig:
    """The model of a run's config, with the plugins that it needs."""
    config = resolved_values(run_config)
    part = config["model"]
    take_up(config.get("plugins") or ())
    found: ModelConfig = models.architecture(part["arch"]).Config.model_validate(part)
    return found


def check_output(output: Path, *, names: Sequence[str]) -> None:
    """UserError unless it is a directory that holds nothing but files of these names, or nothing at all yet."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; give a directory")
    there = sorted(path.name for path in output.iterdir()) if output.exists() else []
    foreign = [name for name in there if name not in names]
    if foreign:
        raise UserError(f"--output {output}: holds other files ({foreign[0]}, ...); give a new or empty directory")


def write_safetensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], blocks: Callable[[str], Iterator[Tensor]]
) -> int:
    """Block by block, so that the model never has to fit in memory; the number of parameters.

    `blocks` gives the fp32 values of a tensor, flattened or not, in their order.

    Format: u64 length of the header, JSON header, raw little-endian data (github.com/huggingface/safetensors).
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data starts aligned
    temporary = path.with_name(f".{path.name}.{token_hex(8)}.partial")
    try:
        with temporary.open("xb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in shapes:
                for block in blocks(name):
                    file.write(block_bytes(block.contiguous()))
        rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return offset // 4
