"""Rooms stand in one order, and a room imports from below it only, imports inside functions included.

A room's config.py is a leaf: it says what a user may write, and whoever reads a config may import it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.architecture.imports import PACKAGES, all_imports, modules
from tests.conftest import ROOT

ORDER = (
    ("launcher.commands",),
    ("launcher.submit",),
    ("launcher.runs",),
    ("launcher.slurm",),
    ("launcher",),
    ("hierlm.__main__",),
    ("hierlm.contract",),
    ("hierlm.inference",),
    ("hierlm.train",),
    ("hierlm.plan",),
    ("hierlm.parallel",),
    ("hierlm.report",),
    ("hierlm.costs",),
    ("hierlm.checkpoint", "hierlm.tracking", "hierlm.config"),
    ("hierlm.optim",),
    ("hierlm.interop", "hierlm.lease", "hierlm.models", "hierlm.objectives", "hierlm.phases"),
    ("hierlm.nn", "hierlm.durable", "hierlm.meeting", "hierlm.refused_versions"),
    ("hierlm.discovery",),
    ("hierlm.plugins", "hierlm.bits", "hierlm.interpolation"),
    (
        "hierlm.run_dir",
        "hierlm.metric_names",
        "hierlm.errors",
        "hierlm.exit_codes",
        "hierlm.outlets",
        "hierlm.strict",
        "hierlm.strict_json",
        "hierlm.yaml12",
    ),
    ("data_pipeline.check",),
    ("data_pipeline.prepare",),
    ("data_pipeline.read",),
    ("data_pipeline.tokenize",),
    ("data_pipeline",),
)
"""From the top floor down; rooms of one line do not know each other. A new room is a new name here."""

FLOOR_OF = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}

Edges = Mapping[str, Iterable[tuple[str, str]]]
"""Room -> (room it imports from, where that stands)."""


def test_every_room_has_its_place() -> None:
    assert {room_of(name) for name in module_names()} - {"hierlm"} == set(FLOOR_OF)


def test_no_room_imports_from_its_own_floor_or_above() -> None:
    found = [
        f"{room} -> {below}: {where}"
        for room, edges in edges_of_rooms().items()
        for below, where in edges
        if FLOOR_OF[below] <= FLOOR_OF[room]
    ]
    assert not found, "\n".join(found)


def test_no_room_stands_in_a_circle() -> None:
    assert circle(edges_of_rooms()) is None


def test_no_config_leaf_stands_in_a_circle() -> None:
    """What a leaf imports does not import it back, directly or round about."""
    assert circle(edges_with_leaves()) is None


def test_a_circle_is_told_with_the_imports_that_make_it() -> None:
    edges = {
        "a": [("b", "a/one.py imports b.two")],
        "b": [("d", "b/two.py imports d.x"), ("c", "b/two.py imports c.three")],
        "c": [("b", "c/three.py imports b.two")],
    }
    assert circle(edges) == "b/two.py imports c.three; c/three.py imports b.two"
    assert circle({**edges, "c": [("d", "c/three.py imports d.x")]}) is None


def edges_of_rooms() -> dict[str, list[tuple[str, str]]]:
    """What is imported across rooms, config leaves and imports for types alone left out."""
    names, edges = module_names(), dict[str, list[tuple[str, str]]]()
    for found in all_imports():
        module = found.module if found.module in names else found.module.rpartition(".")[0]
        room, below = room_of(found.file.removesuffix(".py").replace("/", ".")), room_of(module)
        is_leaf = "config" in (module.rpartition(".")[2], found.file.removesuffix(".py").rpartition("/")[2])
        is_own = module.partition(".")[0] in PACKAGES
        if is_own and not found.is_typing_only and not is_leaf and room != below and below in FLOOR_OF:
            edges.setdefault(room, []).append((below, f"{found.file} imports {module}"))
    return edges


def edges_with_leaves() -> dict[str, list[tuple[str, str]]]:
    """The same with every config.py as a room of its own."""
    names, edges = module_names(), dict[str, list[tuple[str, str]]]()
    for found in all_imports():
        module = found.module if found.module in names else found.module.rpartition(".")[0]
        room, below = (leaf_or_room(name) for name in (found.file.removesuffix(".py").replace("/", "."), module))
        if module.partition(".")[0] in PACKAGES and not found.is_typing_only and room != below:
            edges.setdefault(room, []).append((below, f"{found.file} imports {module}"))
    return edges


def leaf_or_room(module: str) -> str:
    return module if module.endswith(".config") else room_of(module)


def module_names() -> set[str]:
    paths = (path.relative_to(ROOT).with_suffix("").parts for path in modules())
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in paths}


def room_of(module: str) -> str:
    """`hierlm.nn` of `hierlm.nn.basic.block`, `launcher.slurm` of `launcher.slurm.client`, `launcher` of its files."""
    parts = module.split(".")
    is_room = parts[0] == "hierlm" or (ROOT / Path(*parts[:2])).is_dir()
    return ".".join(parts[:2]) if is_room else parts[0]


def circle(edges: Edges) -> str | None:
    """The imports of a shortest way from some room back to it; None where there is none."""
    for start in sorted(edges):
        ways = {start: list[str]()}
        rooms = [start]
        for room in rooms:
            for below, where in edges.get(room, ()):
                if below == start:
                    return "; ".join([*ways[room], where])
                if below not in ways:
                    ways[below] = [*ways[room], where]
                    rooms.append(below)
    return None
