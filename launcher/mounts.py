"""What a container has to see: a path that is missing there fails on every node, hours after `hierlm submit`."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hierlm.config.run_config import RunConfig
from hierlm.models.config import ModelConfig
from launcher.cluster import ClusterProfile
from launcher.prepare_run import run_dir_of
from launcher.provenance import SOURCE_ROOT

TOKENIZER = "tokenizer.model"


def mount_problems(config: RunConfig[ModelConfig], *, site: ClusterProfile) -> list[str]:
    """One line for each place that a run needs and the site's container would not have under the same path."""
    if site.container is None:
        return []
    mounts = [_mount(text) for text in site.container.mounts]
    missing: dict[str, str] = {}
    for what, path in _needed(config):
        for place in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):  # links are followed in there
            if not _is_shown(place, mounts):
                missing.setdefault(place, what)
    return [
        f"container.mounts: {what}, {place}, is not to be seen in the container; add {place}, or a folder above it, to "
        "container.mounts of the cluster file"
        for place, what in missing.items()
    ]


def _needed(config: RunConfig[ModelConfig]) -> Iterator[tuple[str, str]]:
    """(what it is, where)."""
    yield "the checkout", str(SOURCE_ROOT)
    yield "the folder the job runs in", os.getcwd()
    yield "the run root", str(run_dir_of(config).path.parent)
    for source in config.data.weighted_sources:
        if "://" in source.path:
            continue
        yield "the dataset", source.path
        tokenizer = Path(source.path) / TOKENIZER
        if tokenizer.exists():
            yield "the tokenizer", str(tokenizer)
    for plugin in config.plugins:
        if os.path.exists(str(plugin)):
            yield "the plugin", str(plugin)


def _mount(text: str) -> tuple[str, str]:
    """(source on the node, target in the container) of SOURCE:TARGET[:OPTIONS], or of one path for both."""
    source, _, rest = text.partition(":")
    target = rest.partition(":")[0]
    return source.rstrip("/") or "/", (target or source).rstrip("/") or "/"


def _is_shown(place: str, mounts: Sequence[tuple[str, str]]) -> bool:
    """Whether the container has at `place` what this machine has there; the innermost mount hides the others."""
    above = [(source, target) for source, target in mounts if f"{place}/".startswith(f"{target.rstrip('/')}/")]
    if not above:
        return False
    source, target = max(above, key=lambda mount: len(mount[1]))
    shown = source.rstrip("/") + place[len(target.rstrip("/")) :]
    return os.path.realpath(shown) == os.path.realpath(place)
