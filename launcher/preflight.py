"""Refuse what cannot run, all reasons at once, before anything heavy is started."""

import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit

from data_pipeline.check.run import check, evaluation_problems
from hierlm import models
from hierlm.checkpoint.weight_source import source_problems
from hierlm.config.run_config import RunConfig
from hierlm.errors import UserError
from hierlm.models.config import ModelConfig
from hierlm.refused_versions import version_problems
from hierlm.run_dir import RunDir
from launcher.placement import problem_here


def refuse_what_cannot_run(config: RunConfig[ModelConfig], *, num_gpus: int | None = None) -> None:
    """UserError with every reason. What the config alone shows has been reported by its loader already.

    `num_gpus` of this machine, where the run is to be trained on it.
    """
    placement = filter(None, [problem_here(config.parallel, num_gpus=num_gpus)])
    problems = [*version_problems(), *placement, *data_problems(config), *weights_problems(config)]
    problems += room_problems(config)
    if problems:
        raise UserError(problems)


def refuse_missing_weights(*configs: RunConfig[ModelConfig]) -> None:
    """UserError where a config's `init_from` is not there: cheap enough for what starts nothing."""
    problems = [problem for config in configs for problem in weights_problems(config)]
    if problems:
        raise UserError(list(dict.fromkeys(problems)))


def data_problems(config: RunConfig[ModelConfig]) -> list[str]:
    """Datasets that are missing, incomplete, of another tokenizer, too short, or without anything to evaluate on."""
    sources = config.data.weighted_sources
    problems = check(
        sources,
        sequence_lengths=[phase.sequence_length for phase in config.phases],
        vocab_size=config.model.vocab_size,
        tokenizer=config.data.tokenizer,
    )
    if problems:
        return problems
    weights = {phase.name: config.source_weights(phase) for phase in config.phases}
    return evaluation_problems([source.path for source in sources], weights)


def weights_problems(config: RunConfig[ModelConfig]) -> list[str]:
    """The weights to begin with are not there, cannot be read, or are of another vocabulary."""
    run = RunDir(Path(config.run_root).expanduser() / config.name)
    return source_problems(config.init_from, run=run, vocab_size=config.model.vocab_size)


def room_problems(config: RunConfig[ModelConfig]) -> list[str]:
    """The disk cannot hold the checkpoints the run will keep, and the one being written beside them."""
    root = Path(config.run_root).absolute()
    run = RunDir(root / config.name)
    there = next(folder for folder in (run.path, *run.path.parents) if folder.exists())
    wanted = checkpoint_bytes(config) * (config.checkpoint.keep + 1)
    held = sum(file.stat().st_size for file in run.checkpoints.rglob("*") if file.is_file())
    free = shutil.disk_usage(there).free
    if wanted - held <= free:
        return []
    return [
        f"{root}: {free / 2**30:,.1f} GiB are free, the {config.checkpoint.keep} + 1 checkpoints of this run take "
        f"{wanted / 2**30:,.1f} GiB; make room, lower checkpoint.keep, or give another run_root=DIR"
    ]


def checkpoint_bytes(config: RunConfig[ModelConfig]) -> int:
    """Of one checkpoint: weights and two moments in fp32, and the working weights in bf16 where they are."""
    per_parameter = 12 + 2 * (config.train.precision == "bf16")
    num_parameters: int = models.architecture(config.model.arch).num_parameters(config.model)
    return per_parameter * num_parameters


def tracker_note(uri: str, *, timeout_seconds: float = 3.0) -> str | None:
    """A line for the user when a tracking server does not answer from here; the run does not need it."""
    address = urlsplit(uri)
    if address.scheme not in ("http", "https") or address.hostname is None:
        return None
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname, port), timeout=timeout_seconds):
            return None
    except OSError as error:
        return (
            f"tracking.uri: {uri} does not answer from here ({error.strerror or error}); metrics are kept in the run "
            "directory and sent when it does, or by `hierlm track sync RUN`"
        )
