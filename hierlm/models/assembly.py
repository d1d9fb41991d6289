"""The layer list as one single-device module: a fold over the list."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hierlm import models, yaml12
from hierlm.interpolation import resolved_values
from hierlm.models.config import ModelConfig
from hierlm.models.weightless import alone, built_on
from hierlm.nn.depth import at_their_depth
from hierlm.nn.inputs import NO_SPECS, InputSpecs, completed
from hierlm.nn.layer import LayerSpec, Memory, SharedWeights, build_layer, fold
from hierlm.nn.parameter_kinds import Kind, parameter_kinds
from hierlm.nn.stream import Stream
from hierlm.optim.config import ParameterRule
from hierlm.plugins import take_up

State = tuple[Memory | None, ...]


class LanguageModel(nn.Module):
    """`logits, state = model(tokens, state=None, **inputs)`; parameters are `layers.<index>.<name>` in every layout."""

    def __init__(self, config: ModelConfig, *, seed: int) -> None:
        super().__init__()
        self.config = config
        specs = layer_specs(config)
        self.layers = nn.ModuleList(build_layer(spec, seed=seed, index=i) for i, spec in enumerate(specs))
        share_weights(self.layers, shared_weights(config))

    def forward(self, tokens: Tensor, state: State | None = None, **inputs: Tensor) -> tuple[Tensor, State | None]:
        """tokens int64 [B, T] -> logits [B, T, V]; row i predicts token i+1 and depends on tokens 0..i only.

        `state` is None at the start of the streams, else what the call before returned; what is returned is detached
        and is None for a model without recurrent memory. `inputs` are what else the architecture reads (its `INPUTS`),
        each [B, T] or [B], or wider; those it has a rule for may be left out. UserError names what is missing.
        """
        stream, new_state = self.run(tokens, state, **inputs)
        return stream.output, new_state

    def run(self, tokens: Tensor, state: State | None = None, **inputs: Tensor) -> tuple[Stream, State | None]:
        """As `forward`, with all that is left at the end: the logits on top, and what layers report beside them."""
        memories = self.initial_state(tokens) if state is None else state
        stream = Stream.of(completed(self.input_specs, tokens, inputs))
        stream, updated = fold(list(self.layers), stream, memories)
        return stream, detached(updated)

    @property
    def input_specs(self) -> InputSpecs:
        """What the architecture reads beside the tokens."""
        return input_specs(self.config)

    def initial_state(self, tokens: Tensor) -> State:
        """Memories of streams that have seen nothing, one entry per layer."""
        dtype = next(p.dtype for p in self.parameters())
        return tuple(layer.initial_memory(tokens.shape[0], device=tokens.device, dtype=dtype) for layer in self.layers)


def layer_specs(config: ModelConfig) -> list[LayerSpec]:
    """The unbuilt layer list of a config."""
    return at_their_depth(models.architecture(config.arch).layers(config))


def input_specs(config: ModelConfig) -> InputSpecs:
    """What the architecture of a config reads beside the tokens, by name: its `INPUTS`."""
    specs: InputSpecs = getattr(models.architecture(config.arch), "INPUTS", NO_SPECS)
    return specs


def shared_weights(config: ModelConfig) -> list[SharedWeights]:
    """Which layers read another layer's parameter (tied embeddings)."""
    declare = getattr(models.architecture(config.arch), "shared_weights", None)
    return [] if declare is None else list(declare(config))


def canonical_names(config: ModelConfig) -> list[str]:
    """The names of all parameters, in the order of the layers; nothing is allocated."""
    return [name for name, _ in _weightless(config).named_parameters()]


def canonical_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter that has values, by canonical name; nothing is allocated."""
    return {name: tuple(p.shape) for name, p in _weightless(config).named_parameters() if p.numel()}


def canonical_kinds(config: ModelConfig) -> dict[str, Kind]:
    """What each parameter is, by every name it has in the whole model; nothing is allocated.

    Said by name, so that it holds in any layout: slices, borrowed weights and partitions are other objects.
    """
    return parameter_kinds(_weightless(config))


def param_rules(config: ModelConfig) -> tuple[ParameterRule, ...]:
    """Rates and decays of single parameters that the architecture asks for (`PARAM_RULES` in its file)."""
    return tuple(getattr(models.architecture(config.arch), "PARAM_RULES", ()))


def _weightless(config: ModelConfig) -> LanguageModel:
    with built_on(torch.device("meta")):
        return LanguageModel(config, seed=0)


def is_recurrent(config: ModelConfig) -> bool:
    """Whether any layer carries memory from one segment to the next: its rows must then be contiguous lanes."""
    device = torch.device("meta")
    layers = (alone(spec, index=index, device=device) for index, spec in enumerate(layer_specs(config)))
    return any(layer.initial_memory(1, device=device, dtype=torch.float32) is not None for layer in layers)


def share_weights(layers: nn.ModuleList, shares: list[SharedWeights]) -> None:
    """Make each user's parameter the owner's tensor."""
    for share in shares:
        owner, _, owner_name = f"{share.owner}.{share.owner_parameter}".rpartition(".")
        user, _, user_name = f"{share.user}.{share.user_parameter}".rpartition(".")
        setattr(layers.get_submodule(user), user_name, getattr(layers.get_submodule(owner), owner_name))


def detached(state: State) -> State | None:
    """The state without its graph; None when no layer has memory."""
    if all(memory is None for memory in state):
        return None
    return tuple(None if memory is None else tuple(t.detach() for t in memory) for memory in state)


def model_from_source(source: str | Path | Mapping[str, Any], *, seed: int | None) -> LanguageModel:
    """See `hierlm.models.from_config`."""
    loaded = dict(source) if isinstance(source, Mapping) else yaml12.load(Path(source).read_text(encoding="utf-8"))
    mapping = resolved_values(loaded) if isinstance(loaded, dict) else None
    if not isinstance(mapping, dict) or "arch" not in mapping.get("model", {}):
        raise ValueError(f"{source}: expected a mapping with `model: {{arch: ...}}`")
    take_up(mapping.get("plugins") or ())
    part = mapping["model"]
    config = models.architecture(part["arch"]).Config.model_validate(part)
    return LanguageModel(config, seed=int(mapping.get("seed", 1234)) if seed is None else seed)
