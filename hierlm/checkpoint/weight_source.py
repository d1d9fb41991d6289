"""Where first weights come from: a run, an exported model, a safetensors file, a folder of them. Torch-free.

Finding a source reads listings and headers only, so that a login node can say what is missing.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.names import below_its_folder
from hierlm import yaml12
from hierlm.checkpoint.config import InitFromConfig
from hierlm.checkpoint.find import Listed, list_checkpoints
from hierlm.checkpoint.layout import MANIFEST
from hierlm.checkpoint.safetensors_header import MAX_HEADER_BYTES, Stored, read_header, shown
from hierlm.errors import UserError
from hierlm.run_dir import RunDir

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.yaml"

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of files that are programs to whoever reads them."""


@dataclass(frozen=True)
class Source:
    """What weights are read from: `listed` of a run, else `files` of safetensors and the tensors in them by name."""

    path: Path
    listed: Listed | None = None
    files: tuple[Path, ...] = ()
    tensors: Mapping[str, Stored] | None = None

    def __str__(self) -> str:
        return f"{self.path}" if self.listed is None else f"{self.path} (step {self.listed.step})"


def find_source(init_from: InitFromConfig, *, run_root: Path) -> Source:
    """What a config names, as far as it can be known without reading weights; UserError where it is not there."""
    path = _place(init_from.path, run_root)
    run = RunDir(path)
    if path.is_dir() and run.config.exists() and not (path / WEIGHTS).exists():
        return Source(path, listed=_listed(run, init_from.checkpoint))
    if init_from.checkpoint is not None:
        raise UserError(
            f"init_from.checkpoint: given {init_from.checkpoint} with {path}, allowed: null, for that is no run"
        )
    if path.is_dir():
        return _of_folder(path)
    if path.name.endswith(".index.json"):
        return _of_index(path)
    if path.suffix in PICKLED:
        raise UserError(_pickled(path))
    return Source(path, files=(path,), tensors=read_header(path))


def source_problems(init_from: InitFromConfig | None, *, run: RunDir, vocab_size: int) -> list[str]:
    """Why a run cannot begin with what its config names; empty for one that has checkpoints of its own to go on from.

    That the names fit is seen where the model is built.
    """
    if init_from is None or list_checkpoints(run.checkpoints) or run.finished.exists():
        return []
    try:
        source = find_source(init_from, run_root=run.path.parent)
    except UserError as error:
        return list(error.problems)
    there = vocab_size_of(source)
    if there in (None, vocab_size) or init_from.exclude:
        return []
    return [
        f"init_from.path: {source}: has a vocabulary of {there} tokens, model.vocab_size is {vocab_size}: take the "
        "dataset's tokenizer of that model, or leave the weights of tokens out with init_from.exclude"
    ]


def vocab_size_of(source: Source) -> int | None:
    """As the model's own config says beside its weights; None where there is none that says so."""
    if source.listed is not None and source.listed.manifest is not None and source.listed.manifest.config is not None:
        return _vocab_size(source.listed.manifest.config)
    config = source.path / CONFIG
    try:
        return _vocab_size(yaml12.load(config.read_text(encoding="utf-8"))) if config.is_file() else None
    except (OSError, ValueError, yaml.YAMLError):
        return None  # what it cannot say is seen by the shapes


def _vocab_size(config: Any) -> int | None:
    model = config.get("model") if isinstance(config, Mapping) else None
    size = model.get("vocab_size") if isinstance(model, Mapping) else None
    return size if type(size) is int else None


def _place(given: str, run_root: Path) -> Path:
    """A path as it is given, or a run by its name alone."""
    path, named = Path(given).expanduser(), run_root / given
    if path.exists():
        return path
    if named.exists() and Path(given).name == given:
        return named
    runs = [place.parent.name for place in run_root.glob(f"*/{CONFIG}")]
    near = difflib.get_close_matches(Path(given).name, runs, n=1)
    nearest = f", nearest: {run_root / near[0]}" if near else ""
    raise UserError(f'init_from.path: given "{given}", where nothing is, allowed: {_ALLOWED}{nearest}')


_ALLOWED = f"a run, what `hierlm checkpoint export` wrote, a safetensors file, or a folder with {WEIGHTS} or {INDEX}"


def _listed(run: RunDir, step: int | None) -> Listed:
    """The claim of one step, or the newest that has a manifest."""
    listing = [listed for listed in list_checkpoints(run.checkpoints) if listed.manifest is not None]
    if not listing:
        raise UserError(f"init_from.path: {run.path}: this run has no checkpoint to begin with; train it first")
    if step is None:
        return listing[-1]
    found = next((listed for listed in listing if listed.step == step), None)
    if found is None:
        there = ", ".join(str(listed.step) for listed in listing)
        raise UserError(f"init_from.checkpoint: given {step}, allowed: a step {run.path} has a checkpoint of, {there}")
    return found


def _of_folder(path: Path) -> Source:
    if (path / WEIGHTS).is_file():
        return Source(path, files=(path / WEIGHTS,), tensors=read_header(path / WEIGHTS))
    if (path / INDEX).is_file():
        return _of_index(path / INDEX)
    if (path / MANIFEST).is_file():
        raise UserError(
            f"init_from.path: {path}: is one checkpoint; give its run, {path.parent.parent}, and init_from.checkpoint"
        )
    there = sorted(entry.name for entry in path.iterdir())
    pickled = next((name for name in there if Path(name).suffix in PICKLED), None)
    if pickled is not None:
        raise UserError(_pickled(path / pickled))
    raise UserError(
        f"init_from.path: {path}: holds no weights ({', '.join(map(shown, there[:5])) or 'empty'}), allowed: {_ALLOWED}"
    )


def _of_index(path: Path) -> Source:
    """Shards by the index beside them, which may name files of its own folder alone."""
    try:
        if path.stat().st_size > MAX_HEADER_BYTES:
            raise ValueError("is larger than any index")
        tensors = dict(_indexed(path, json.loads(path.read_bytes())))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: is no index of safetensors files ({why}); copy it again") from None
    return Source(path.parent, files=tuple(sorted({t.file for t in tensors.values()})), tensors=tensors)


def _indexed(path: Path, index: Any) -> Iterator[tuple[str, Stored]]:
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError("it has no weight_map of names and files")
    shards = {name: path.parent / below_its_folder(name) for name in sorted(set(places.values()))}
    missing = [name for name, file in shards.items() if not file.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{path}: names {missing[0]}{more}, which is not there; copy the whole folder")
    headers = {name: read_header(file) for name, file in shards.items()}
    for tensor, shard in places.items():
        if tensor not in headers[shard]:
            raise UserError(
                f"{shards[shard]}: does not hold {shown(tensor)[:80]}, which {path.name} says; copy it again"
            )
        yield tensor, headers[shard][tensor]


def _pickled(path: Path) -> str:
    made = 'safetensors.torch.save_file(torch.load(FILE, weights_only=True), "model.safetensors")'
    return (
        f"init_from.path: {path}: is a pickle, a program to whoever reads it, and is not read; where you trust it, "
        f"give a safetensors file made of it ({made})"
    )
