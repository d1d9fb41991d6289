"""What a file says of its architecture is what `layers` builds."""

import re
import subprocess
import sys

import torch

from hierlm.contract.case import Case, require
from hierlm.models.assembly import layer_specs, shared_weights
from hierlm.nn.layer import StepContext, build_layer
from hierlm.nn.stream import Stream
from hierlm.plugins import plugin_for

TENSOR_ROLES = {"column", "row", "vocabulary", "replicate", "partial"}


def says_where_it_comes_from(case: Case) -> None:
    """PAPER holds an arXiv number or a year; the first line of the file says what it is."""
    module = case.architecture
    paper = getattr(module, "PAPER", "")
    require(bool(re.search(r"\d{4}\.\d{4,5}|\d{4}", paper)), f"PAPER is {paper!r}")
    require(len((module.__doc__ or "").partition("\n")[0]) > 10, "the file has no docstring")


def config_is_read_without_torch(case: Case) -> None:
    """The file does not import torch before `layers` is called: a config is checked on a login node."""
    arch = str(case.part["arch"])
    plugin = plugin_for("hierlm.models", arch)
    load = f"plugins.take_up([{plugin.file!r}])" if plugin else f"models.architecture({arch!r})"
    require_no_torch(load)


def require_no_torch(load: str) -> None:
    """Of Python text that may use `models` and `plugins`."""
    code = f"import sys; from hierlm import models, plugins; {load}; sys.exit('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    require(ran.returncode == 0, (ran.stderr.strip().splitlines() or ["reading the file imports torch"])[-1])


def length_of_the_list_is_known(case: Case) -> None:
    """`list_length` counts the layers without building one."""
    said, built = case.architecture.list_length(case.config), len(layer_specs(case.config))
    require(said == built, f"list_length says {said}, layers lists {built}")


def number_of_parameters_is_known(case: Case) -> None:
    """`num_parameters` is the closed form."""
    said, built = case.architecture.num_parameters(case.config), sum(p.numel() for p in case.model.parameters())
    require(said == built, f"num_parameters says {said}, the model has {built}")


def tensor_plan_names_every_weight_once(case: Case) -> None:
    """Every parameter's name, or that of the module that holds it, matches exactly one pattern of TENSOR_PLAN."""
    plan = case.architecture.TENSOR_PLAN
    unknown = sorted(set(plan.values()) - TENSOR_ROLES)
    require(not unknown, f"TENSOR_PLAN has {', '.join(unknown)}, allowed: {', '.join(sorted(TENSOR_ROLES))}")
    for path, _ in case.model.named_parameters(remove_duplicate=False):
        holder = path.rpartition(".")[0]
        matches = [pattern for pattern in plan if re.fullmatch(pattern, path) or re.fullmatch(pattern, holder)]
        require(len(matches) == 1, f"{path} matches {matches or 'no pattern'}, one is needed")


def weights_depend_on_seed_and_place_only(case: Case) -> None:
    """A layer built alone, as a pipeline stage does, begins as it does in the whole model."""
    config, whole = case.config, case.fresh(seed=5)
    last = len(whole.layers) - 2
    alone = build_layer(layer_specs(config)[last], seed=5, index=last)
    borrowed = {share.user_parameter for share in shared_weights(config) if share.user == last}
    for (path, ours), theirs in zip(alone.named_parameters(), whole.layers[last].parameters(), strict=True):
        require(path in borrowed or torch.equal(ours, theirs), f"layer {last}, {path}: other weights when built alone")


def shapes_follow_from_what_is_declared(case: Case) -> None:
    """Between layers they depend on the tokens' shape, `training` and `drawn_shape` alone: stages of a pipeline agree
    on shapes only when one of these changes."""
    model, text = case.copy, case.tokens(11)
    own = {switch: getattr(model.config, switch) for switch in model.config.train_switches()}
    found: dict[object, object] = {}
    for training, step in [(False, 0), *((True, step) for step in range(8))]:
        stream, shapes = Stream.of(text), []
        for layer in model.layers.train(training):
            layer.begin_step(StepContext(step, 5, own))
            stream, _ = layer(stream, layer.initial_memory(2, device=text.device, dtype=torch.float64))
            shapes.append([tuple(level.shape) for level in stream.levels])
        drawn = tuple(layer.drawn_shape for layer in model.layers)
        before = found.setdefault((training, drawn), shapes)
        require(before == shapes, f"step {step}: shapes {shapes} and not {before}, and drawn_shape is silent")
    expected = 3 if own.get("shorten_factors") else 2
    require(len(found) == expected, f"{len(found)} sets of shapes, expected {expected}")
