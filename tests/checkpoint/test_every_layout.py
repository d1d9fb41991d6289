"""Every layout goes on from a checkpoint of every other: the same state to the last bit, the same losses to rounding.

The time of a matrix goes into its process groups: one for each source, one for each target.
"""

from pathlib import Path

import pytest

from hierlm.checkpoint.digest import digest
from hierlm.checkpoint.universal import write_universal
from tests.checkpoint.matrix import (
    ZERO_0_AND_1,
    ZERO_2_AND_3,
    Layout,
    load_each,
    name_of,
    save_source,
    settings,
    world_size,
)
from tests.distributed.spawn import run_ranks

QUICK = [{"dp": 1, "zero": 0}, {"tp": 2, "zero": 1}, {"pp": 2, "zero": 1}, {"dp": 2, "zero": 3}]
RELATIVE = 1e-5
"""fp32: layouts add up in another order."""

pytestmark = pytest.mark.distributed


def saved_by(arch: str, layout: Layout, folder: Path) -> list[float]:
    losses: list[float] = run_ranks(save_source, world_size(layout), arch, settings(arch, layout), str(folder))[0]
    write_universal(folder / "engine", folder / "universal", progress=lambda done, of: None)
    return losses


def check_all_pairs(arch: str, layouts: list[Layout], root: Path) -> None:
    folders = {name_of(layout): root / name_of(layout).replace(" ", "-") for layout in layouts}
    went_on = {name_of(layout): saved_by(arch, layout, folders[name_of(layout)]) for layout in layouts}
    digests = {name: digest(folder / "engine") for name, folder in folders.items()}
    for target in layouts:
        sources = [name for name in folders if name != name_of(target)]
        paths, work = [str(folders[name]) for name in sources], root / "again" / name_of(target)
        loaded = run_ranks(load_each, world_size(target), arch, settings(arch, target), paths, str(work))[0]
        for source, (again, losses) in zip(sources, loaded, strict=True):
            which = f"{arch}: {source} -> {name_of(target)}"
            assert again == digests[source], which
            assert losses == pytest.approx(went_on[source], rel=RELATIVE, abs=0), which


@pytest.mark.slow
def test_some_layouts_go_on_from_each_other(tmp_path: Path) -> None:
    check_all_pairs("transformer_xl", QUICK, tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("arch", ["transformer", "hourglass", "transformer_xl"])
@pytest.mark.parametrize(
    "layouts",
    [pytest.param(ZERO_0_AND_1, id="ZeRO 0 and 1"), pytest.param(ZERO_2_AND_3, id="ZeRO 2 and 3")],
)
def test_every_layout_goes_on_from_every_other(arch: str, layouts: list[Layout], tmp_path: Path) -> None:
    check_all_pairs(arch, layouts, tmp_path)
