"""A rank that loads what its layout has saved looks at its own files, and at nothing of the others."""

from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint.counting import of_rank, touches_counted
from tests.checkpoint.layouts import overrides, small_engine
from tests.distributed.spawn import run_ranks


def loaded(settings: list[str], folder: str) -> tuple[dict[str, int], list[str]]:
    """On every rank: how often a load has touched the checkpoint, and which files it has opened."""
    import sys

    from hierlm.durable import FileWriter

    engine, root = small_engine("transformer", settings), Path(folder)
    engine.save(root, client_state={}, open_file=FileWriter(root).open)
    opened: list[str] = []

    def hear(event: str, given: tuple[Any, ...]) -> None:
        if event in ("open", "os.listdir", "os.scandir", "glob.glob") and str(root) in str(given[0]):
            opened.append(f"{'' if event == 'open' else event + ' '}{Path(str(given[0])).name}")

    sys.addaudithook(hear)
    with touches_counted(root, lambda: 0) as found:
        engine.load(root)
    return of_rank(found, 0), sorted(set(opened))


@pytest.mark.distributed
@pytest.mark.slow
def test_a_rank_opens_its_weights_and_its_partition(tmp_path: Path) -> None:
    ranks = run_ranks(loaded, 2, overrides(dp=2, zero=1), str(tmp_path))
    for rank, (touched, opened) in enumerate(ranks):
        assert opened == ["mp_rank_00_model_states.pt", f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"], opened
        assert not {"listdir", "scandir"} & touched.keys() and sum(touched.values()) < 200, touched
