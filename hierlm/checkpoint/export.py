"""One file of weights and one of configuration: what `hierlm.models.load` reads, and any safetensors reader."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any

from hierlm import models, yaml12
from hierlm.checkpoint.canonical import CanonicalState, read_canonical, require_known_names
from hierlm.checkpoint.tensor_archive import block_bytes
from hierlm.durable import rename
from hierlm.errors import UserError
from hierlm.interpolation import resolved_values
from hierlm.models.assembly import canonical_names
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
    require_known_names(state.names, _names_of(config), where=engine_dir.parent)
    _check_output(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        num_parameters = _write_safetensors(output / WEIGHTS, state)
        parts = {key: config[key] for key in ("seed", "plugins", "model") if key in config}
        (output / CONFIG).write_text(yaml12.dump(parts), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror})") from None
    return {"parameters": num_parameters, "bytes": (output / WEIGHTS).stat().st_size}


def _names_of(run_config: Mapping[str, Any]) -> list[str]:
    config = resolved_values(run_config)
    part = config["model"]
    take_up(config.get("plugins") or ())
    return canonical_names(models.architecture(part["arch"]).Config.model_validate(part))


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; give a directory")
    there = sorted(path.name for path in output.iterdir()) if output.exists() else []
    foreign = [name for name in there if name not in (WEIGHTS, CONFIG)]
    if foreign:
        raise UserError(f"--output {output}: holds other files ({foreign[0]}, ...); give a new or empty directory")


def _write_safetensors(path: Path, state: CanonicalState) -> int:
    """Tensor by tensor, so that the model never has to fit in memory; the number of parameters.

    Format: u64 length of the header, JSON header, raw little-endian data (github.com/huggingface/safetensors).
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in _shapes(state):
        end = offset + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data starts aligned
    temporary = path.with_name(f".{path.name}.{token_hex(8)}.partial")
    try:
        with temporary.open("xb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in state.names:
                for block in state.blocks(name, "fp32"):
                    file.write(block_bytes(block.contiguous()))
        rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return offset // 4


def _shapes(state: CanonicalState) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name in state.names:
        yield name, state.shape(name)
