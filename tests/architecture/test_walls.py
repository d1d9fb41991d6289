"""Imports point one way: launcher -> config -> the rooms' configs; train -> rooms -> models, nn; models -> nn."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.imports import PACKAGES, Import, all_imports, modules
from tests.conftest import ROOT

HEAVY = ("torch", "deepspeed", "megatron", "mlflow")

HEAVY_ROOMS = ("hierlm.train", "hierlm.parallel", "hierlm.nn", "hierlm.optim", "hierlm.checkpoint", "hierlm.inference")
"""Their config.py is light, everything else in them may import torch."""

LIGHT_DOORS = ("hierlm.optim.optimizers",)
"""One file a choice of the user's, with its Config: light, too, as architectures are."""

READS_MANIFESTS = ("hierlm.checkpoint.find", "hierlm.checkpoint.weight_source")
"""The torch-free half of the checkpoints: what a run is made of is asked before it is started."""

IMPORTS = all_imports()


def of_room(*rooms: str, typing: bool = True) -> Iterator[Import]:
    for found in IMPORTS:
        is_inside = any(found.file == room or found.file.startswith(f"{room}/") for room in rooms)
        if is_inside and (typing or not found.is_typing_only):
            yield found


def told(found: list[Import]) -> str:
    return "\n".join(f"{one.file} imports {one.module}" for one in found)


def refuse(found: list[Import]) -> None:
    assert not found, told(found)


def is_config(found: Import) -> bool:
    return any(found.is_of(f"{room}.config") for room in HEAVY_ROOMS) or found.is_of(*LIGHT_DOORS)


def test_there_is_something_to_look_at() -> None:
    assert len(modules()) > 50 and len(IMPORTS) > 200
    assert any(found.is_of("torch") for found in IMPORTS)


@pytest.mark.parametrize("package", ["deepspeed", "megatron"])
def test_the_engine_room_alone_imports_the_engines(package: str) -> None:
    refuse([f for f in IMPORTS if f.is_of(package) and not f.file.startswith("hierlm/parallel/")])


def test_one_file_imports_mlflow() -> None:
    assert {f.file for f in IMPORTS if f.is_of("mlflow")} <= {"hierlm/tracking/mlflow.py"}


def test_the_launcher_never_imports_torch_or_what_does() -> None:
    verbs_that_compute = ("launcher/commands/",)  # a verb may turn to a room inside its function; see test_light_verbs
    found = [f for f in of_room("launcher") if f.is_of(*HEAVY)]
    found += [
        f
        for f in of_room("launcher", typing=False)
        if f.is_of(*HEAVY_ROOMS) and not (is_config(f) or f.is_of(*READS_MANIFESTS))
        if not f.file.startswith(verbs_that_compute)
    ]
    refuse(found)


def test_models_are_single_device_mathematics() -> None:
    forbidden = ("hierlm.parallel", "hierlm.train", "hierlm.checkpoint", "hierlm.tracking", "launcher", "data_pipeline")
    outside = ("deepspeed", "megatron", "mlflow", "torch.distributed", "os", "omegaconf")
    # models/__init__ and assembly are the door for Python users and read YAML
    door = ("hierlm/models/__init__.py", "hierlm/models/assembly.py", "hierlm/models/exported.py")
    found = [f for f in of_room("hierlm/models", "hierlm/nn") if f.is_of(*forbidden, *outside)]
    refuse([f for f in found if not (f.file in door and f.is_of("omegaconf", "hierlm.config"))])


def test_layers_know_no_model() -> None:
    refuse([f for f in of_room("hierlm/nn") if f.is_of("hierlm.models") and not f.is_of("hierlm.models.config")])


def test_the_data_pipeline_knows_nothing_of_models() -> None:
    refuse([f for f in of_room("data_pipeline") if f.is_of("hierlm", "launcher")])


def test_torch_enters_the_data_pipeline_where_batches_are_made() -> None:
    assert {f.file for f in of_room("data_pipeline") if f.is_of(*HEAVY)} <= {
        "data_pipeline/read/loader.py",
        "data_pipeline/read/prefetch.py",
    }


def test_nothing_imports_the_launcher_from_below() -> None:
    refuse([f for f in of_room("hierlm", "data_pipeline") if f.is_of("launcher")])


def test_the_rooms_below_do_not_import_the_loop() -> None:
    below = [
        f"hierlm/{room}"
        for room in ("parallel", "costs", "checkpoint", "optim", "phases", "models", "nn", "plan", "config")
    ]
    refuse([f for f in of_room(*below) if f.is_of("hierlm.train") and not is_config(f)])


def test_light_rooms_are_light() -> None:
    """Config errors, plans, reports and tracking records need no torch."""
    configs = [str(path.relative_to(ROOT)) for path in modules() if path.name == "config.py"]
    light = ["hierlm/config", "hierlm/phases", "hierlm/report", "hierlm/run_dir.py", "hierlm/strict.py", *configs]
    found = [f for f in of_room(*light, typing=False) if f.is_of(*HEAVY)]
    found += [f for f in of_room(*light, typing=False) if f.is_of(*HEAVY_ROOMS) and not is_config(f)]
    refuse(found)


def test_what_is_found_by_its_file_imports_torch_inside_functions_only() -> None:
    found = [f for f in of_room("hierlm/optim/optimizers", "hierlm/optim/state_names.py", typing=False)]
    refuse([f for f in found if f.is_of(*HEAVY) and not f.is_lazy])
    refuse([f for f in found if f.is_of(*HEAVY_ROOMS) and not is_config(f)])


def test_a_rooms_config_imports_other_configs_only() -> None:
    allowed = ("hierlm.strict", "hierlm.errors", "data_pipeline.masking", "pydantic", "pydantic_core")
    for path in (p for p in modules() if p.name == "config.py"):
        own = [f for f in of_room(str(path.relative_to(ROOT)), typing=False) if f.is_of(*PACKAGES)]
        refuse([f for f in own if not f.is_of(*allowed) and ".config" not in f.module])


def test_no_room_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}
    places: list[Path] = [path for path in modules() if {path.stem, *path.relative_to(ROOT).parts} & drawers]
    assert places == []


def test_rooms_do_not_import_each_other_in_a_circle() -> None:
    """By file, at import time: a circle breaks with the order of imports."""
    names = {_module_name(path): path for path in modules()}
    edges = {name: set[str]() for name in names}
    for found in IMPORTS:
        if not found.is_typing_only and not found.is_lazy:
            target = found.module if found.module in names else found.module.rpartition(".")[0]
            if target in names:
                edges[_module_name(ROOT / found.file)].add(target)
    assert _circle(edges) is None


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _circle(edges: dict[str, set[str]]) -> list[str] | None:
    state: dict[str, int] = {}

    def visit(name: str, trail: list[str]) -> list[str] | None:
        if state.get(name) == 1:
            return [*trail[trail.index(name) :], name]
        if state.get(name) == 2:
            return None
        state[name] = 1
        for below in sorted(edges[name] - {name}):
            if (circle := visit(below, [*trail, name])) is not None:
                return circle
        state[name] = 2
        return None

    return next((circle for name in edges if (circle := visit(name, [])) is not None), None)
