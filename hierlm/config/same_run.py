"""Whether a config asks for the run that made a checkpoint: `hierlm train` asks before it starts one, and every job.

A job reads runs/NAME/config.yaml, which anybody may have edited since the checkpoint was made.
"""

from collections.abc import Mapping
from typing import Any

from hierlm.config.load import check_mapping
from hierlm.config.run_config import RunConfig
from hierlm.config.structure import differences, fingerprint, is_extended
from hierlm.models.config import ModelConfig

Config = RunConfig[ModelConfig]


def changes_since(
    saved: Mapping[str, Any] | None, *, saved_fingerprint: str, saved_seed: int | None, config: Config
) -> list[str]:
    """`dotted.path: old -> new` for all that makes `config` another run; a run made longer at its end is the same.

    `saved` is the config as the checkpoint holds it. Where it holds none that this version can read, the seed is
    compared alone: a fingerprint differs between versions that know other fields.
    """
    if saved_fingerprint == fingerprint(config):
        return []
    # with the plugins of `config`, which are loaded: those that were saved may lie elsewhere now
    old = None if saved is None else check_mapping({**saved, "plugins": ()})[0]
    if old is not None:
        return [] if is_extended(old, config) else differences(old, config)
    return [] if saved_seed in (None, config.seed) else [f"seed: {saved_seed} -> {config.seed}"]
