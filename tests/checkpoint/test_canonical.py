"""What is read from an engine's files is the state the engine had, whatever the layout."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hierlm.checkpoint.canonical import CanonicalState, read_canonical, require_known_names
from hierlm.checkpoint.digest import digest
from hierlm.checkpoint.engine_files import Piece, Slice
from hierlm.durable import damage
from hierlm.errors import UserError
from tests.checkpoint.layouts import SAVED_AFTER, overrides, train_and_save
from tests.distributed.spawn import run_ranks

Saved = dict[str, Any]
LAYOUTS = {f"zero {stage}": {"dp": 2, "zero": stage} for stage in (0, 1, 2, 3)} | {
    "one rank": {},
    "tensor": {"tp": 2, "zero": 1},
    "pipeline": {"pp": 2, "zero": 0},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[Saved]]]:
    """One tiny transformer, trained and saved on each layout: (folder, what each rank returned)."""
    found = {}
    for name, layout in LAYOUTS.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        world_size = layout.get("dp", 1) * layout.get("tp", 1) * layout.get("pp", 1)
        found[name] = folder, run_ranks(train_and_save, world_size, "transformer", overrides(**layout), str(folder))
    return found


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("layout", ["one rank", "zero 0", "zero 1", "zero 2"])
def test_weights_are_the_engines_own(layout: str, saved: dict[str, tuple[Path, list[Saved]]]) -> None:
    folder, ranks = saved[layout]
    state = read_canonical(folder / "engine")
    assert state.names == sorted(ranks[0]["weights"])
    for name, weight in ranks[0]["weights"].items():
        assert torch.equal(state.tensor(name, "fp32"), torch.from_numpy(weight)), name


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one rank"])
def test_every_layout_reads_as_the_single_process(layout: str, saved: dict[str, tuple[Path, list[Saved]]]) -> None:
    """The layouts trained the same model on the same rows, so weights and moments agree to rounding."""
    one, other = (read_canonical(saved[name][0] / "engine") for name in ("one rank", layout))
    assert one.names == other.names and one.counts == other.counts == {"step": SAVED_AFTER}
    for name in one.names:
        for kind, atol in (("fp32", 2e-5), ("exp_avg", 1e-7), ("exp_avg_sq", 1e-10)):
            torch.testing.assert_close(other.tensor(name, kind), one.tensor(name, kind), rtol=1e-4, atol=atol)


@pytest.mark.distributed
@pytest.mark.slow
def test_the_moments_of_zero_0_are_the_optimizers(saved: dict[str, tuple[Path, list[Saved]]]) -> None:
    folder, _ = saved["one rank"]
    raw = torch.load(folder / "engine" / "mp_rank_00_model_states.pt", weights_only=False)
    names = [name for group in raw["universal_checkpoint_info"]["optimizer_parameter_names"] for name in group]
    state = read_canonical(folder / "engine")
    for number, name in enumerate(names):
        for moment in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state.tensor(name, moment), raw["optimizer"]["state"][number][moment]), name


@pytest.mark.distributed
@pytest.mark.slow
def test_a_digest_moves_with_weights_and_optimizer_apart(saved: dict[str, tuple[Path, list[Saved]]]) -> None:
    folder, _ = saved["one rank"]
    file = folder / "engine" / "mp_rank_00_model_states.pt"
    before, content = digest(folder / "engine"), torch.load(file, weights_only=False)
    original = file.read_bytes()
    try:
        content["optimizer"]["state"][0]["exp_avg"].view(-1)[-1] += 1e-3
        torch.save(content, file)
        moved = digest(folder / "engine")
        assert moved["weights_sha256"] == before["weights_sha256"]
        assert moved["optimizer_sha256"] != before["optimizer_sha256"]
    finally:
        file.write_bytes(original)
    assert digest(folder / "engine") == before


@pytest.mark.distributed
@pytest.mark.slow
def test_every_file_was_recorded_by_the_rank_that_wrote_it(saved: dict[str, tuple[Path, list[Saved]]]) -> None:
    for folder, ranks in saved.values():
        records = {name: record for rank in ranks for name, record in rank["records"].items()}
        there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert records.keys() == there
        assert damage(folder, records) == []


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("gone", ["mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt"])
def test_a_missing_part_is_an_error(gone: str, saved: dict[str, tuple[Path, list[Saved]]]) -> None:
    folder, _ = saved["zero 1"]
    file = folder / "engine" / gone
    kept = file.read_bytes()
    file.unlink()
    try:
        with pytest.raises(ValueError, match=r"not a whole checkpoint|1 of 2 optimizer files"):
            read_canonical(folder / "engine")
    finally:
        file.write_bytes(kept)


def held(value: float, *, stage: int) -> Slice:
    """A stage that holds one weight."""
    values = torch.full((2,), value)
    piece = Piece((2,), counts={"step": 1}, fragments={"fp32": [values], "exp_avg": [values], "exp_avg_sq": [values]})
    return Slice(stage, 0, {"layers.0.tokens.weight": piece}, info={}, model={})


def test_a_tied_weight_that_differs_between_stages_is_not_taken_from_the_first() -> None:
    same, parted = (CanonicalState([held(1.0, stage=0), held(last, stage=3)], where=Path()) for last in (1.0, 1.5))
    assert same.tensor("layers.0.tokens.weight", "fp32").tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"layers\.0\.tokens\.weight differ between pipeline stages"):
        parted.tensor("layers.0.tokens.weight", "exp_avg")


def test_a_checkpoint_of_other_parameters_is_refused_in_one_line() -> None:
    names = [f"layers.{index}.weight" for index in range(9)]
    require_known_names(reversed(names), names, where="here")
    with pytest.raises(UserError) as raised:
        require_known_names(names[1:], names[:5], where="runs/x/checkpoints/step-00000002")
    assert str(raised.value).startswith(
        "runs/x/checkpoints/step-00000002: holds other parameters than the run's model "
        "(unknown layers.5.weight, layers.6.weight, layers.7.weight and 1 more; missing layers.0.weight): "
    )


def test_a_parameter_without_values_is_none() -> None:
    empty = Piece((0, 4), fragments={"fp32": [torch.zeros(0)], "exp_avg": [], "exp_avg_sq": []})
    part = Slice(0, 0, {"layers.0.memory": empty, **held(1.0, stage=0).pieces}, info={}, model={})
    assert CanonicalState([part], where=Path()).names == ["layers.0.tokens.weight"]
