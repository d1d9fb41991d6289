"""Weights of any layout and format begin a run on any other, to the last bit, and a rank reads its share alone."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hierlm.checkpoint.canonical import read_canonical
from hierlm.checkpoint.digest import digest
from hierlm.checkpoint.safetensors_header import read_header
from hierlm.checkpoint.weights import CheckpointWeights, SafetensorsWeights, Weights, as_matrix
from hierlm.parallel.first_weights import part_of
from tests.checkpoint.layouts import SAVED_AFTER, small_engine, steps_made
from tests.checkpoint.matrix import DEGREES, Layout, name_of, save, settings, world_size
from tests.distributed.spawn import run_ranks

SOURCES: list[Layout] = [{"dp": 2, "tp": 2, "zero": 1}, {"dp": 2, "zero": 3}, {"pp": 2, "zero": 0}]
TARGETS: list[Layout] = [{"dp": 1, "zero": 0}, {"tp": 2, "zero": 1}, {"dp": 2, "zero": 3}, {"pp": 2, "zero": 1}]
ALL: list[Layout] = [degrees | {"zero": stage} for degrees in DEGREES for stage in (0, 1)]
ALL += [{"dp": dp, "zero": stage} for dp in (2, 3) for stage in (2, 3)]
ODD = "model.vocab_size=251"
"""Tensor-parallel ranks pad it."""


def words(arch: str, layout: Layout, *, seed: int) -> list[str]:
    tied = ["model.tie_embeddings=true"] if arch == "transformer" else []
    batch = ["phases.0.global_batch_size=12", f"parallel.micro_batch_size={12 // layout.get('dp', 1)}"]
    if layout.get("pp", 1) > 1:
        batch[1] = f"parallel.micro_batch_size={6 // layout.get('dp', 1)}"
    return [*settings(arch, layout), *tied, *batch, ODD, f"seed={seed}"]


def make_source(arch: str, settings: list[str], folder: str) -> None:
    """On every rank: a trained engine's state."""
    engine = small_engine(arch, settings)
    steps_made(engine, range(SAVED_AFTER))
    save(engine, Path(folder))


def begin_with_each(arch: str, settings: list[str], sources: list[str], work: str) -> list[tuple[dict[str, str], Any]]:
    """On every rank, of every source in turn: the digest of what an engine holds that begins with it, on rank 0, and
    what of the optimizer's state is not zero."""
    import torch.distributed as dist

    engine, found = small_engine(arch, settings), []
    for number, source in enumerate(sources):
        weights = opened(Path(source))
        taken = {name: name for name in weights.shapes}
        engine.read_first_weights(weights, taken)
        engine.follow_first_weights()
        again = Path(work) / str(number)
        save(engine, again)
        dist.barrier()
        mine, moments = dict[str, str](), 0
        if engine.process.rank == 0:
            mine = {**digest(again / "engine")}
            state = read_canonical(again / "engine")
            moments = sum(
                int(state.tensor(name, kind).count_nonzero()) for name in state.names for kind in state.kinds[1:]
            )
        found.append((mine, moments))
    return found


def opened(path: Path) -> Weights:
    if path.is_dir():
        return CheckpointWeights(read_canonical(path / "engine"))
    return SafetensorsWeights(read_header(path))


def exported(folder: Path, file: Path) -> Path:
    state = read_canonical(folder / "engine")
    save_file({name: state.tensor(name, "fp32") for name in state.names}, file)
    return file


def check(arch: str, sources: list[Layout], targets: list[Layout], root: Path) -> None:
    paths: list[Path] = []
    for number, layout in enumerate(sources):
        paths.append(root / name_of(layout).replace(" ", "-"))
        run_ranks(make_source, world_size(layout), arch, words(arch, layout, seed=number), str(paths[-1]))
    digests = [digest(path / "engine")["weights_sha256"] for path in paths]
    assert len(set(digests)) == len(digests), "a source that is like another would not be missed"
    paths.append(exported(paths[0], root / "some.safetensors"))
    for target in targets:
        work = root / "begun" / name_of(target).replace(" ", "-")
        begun = run_ranks(
            begin_with_each, world_size(target), arch, words(arch, target, seed=77), [*map(str, paths)], str(work)
        )[0]
        for path, (found, moments), expected in zip(paths, begun, [*digests, digests[0]], strict=True):
            assert found["weights_sha256"] == expected, f"{arch}: {path.name} -> {name_of(target)}"
            assert moments == 0, f"{arch}: {path.name} -> {name_of(target)}: the optimizer is not new"


@pytest.mark.slow
@pytest.mark.distributed
def test_layouts_and_formats_begin_with_each_other(tmp_path: Path) -> None:
    check("transformer", SOURCES, TARGETS, tmp_path)


@pytest.mark.matrix
@pytest.mark.distributed
@pytest.mark.parametrize("arch", ["transformer", "hourglass", "transformer_xl"])
def test_every_layout_begins_with_every_other(arch: str, tmp_path: Path) -> None:
    check(arch, ALL, ALL, tmp_path)


class Counting:
    """Weights that say how much of them was asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors, self.values = tensors, 0

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def block(self, name: str, *, rows: range, columns: range) -> Tensor:
        self.values += len(rows) * len(columns)
        whole = self._tensors[name].reshape(as_matrix(self._tensors[name].shape))
        return whole[rows.start : rows.stop, columns.start : columns.stop]


def asked_for(arch: str, settings: list[str]) -> tuple[int, int]:
    """(values that this rank asks for, values of the whole model)."""
    from hierlm.models.assembly import canonical_shapes

    engine = small_engine(arch, settings)
    tensors = {name: torch.ones(shape) for name, shape in canonical_shapes(engine.config.model).items()}
    weights = Counting(tensors)
    engine.read_first_weights(weights, {name: name for name in tensors})
    engine.follow_first_weights()
    assert all(bool((p.float() == 1).all()) for p in engine.module.parameters() if p.numel())
    return weights.values, sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("layout", "share"), [({"dp": 2, "zero": 3}, 0.5), ({"dp": 2, "zero": 1}, 0.5), ({"tp": 2, "pp": 2}, 0.25)]
)
def test_a_rank_asks_for_its_share_alone(layout: Layout, share: float) -> None:
    """Of a stage's slices; what every rank holds whole (norms, biases) and rows cut in the middle count for 15 %."""
    sizes = ["model.num_layers=6", "model.hidden_dim=64", "model.num_heads=4", "model.ffn_dim=256"]
    settings_ = [*words("transformer", layout, seed=0), *sizes, "model.vocab_size=64", "model.tie_embeddings=false"]
    for asked, whole in run_ranks(asked_for, world_size(layout), "transformer", settings_):
        assert 0 < asked <= 1.15 * share * whole, (asked, whole)


@pytest.mark.parametrize(
    ("rule", "shape"),
    [*product(["column", "row", "vocabulary", "replicate"], [(12,), (12, 8), (4, 3, 8)]), ("vocabulary", (11, 4))],
)
def test_stretches_of_parts_are_those_of_the_slice(rule: str, shape: tuple[int, ...], monkeypatch) -> None:
    """Whatever a rank owns of its slice is what cutting the whole tensor gives, read in chunks of a few rows."""
    monkeypatch.setattr("hierlm.parallel.first_weights.MOST_VALUES", 16)
    whole = torch.arange(float(torch.Size(shape).numel())).view(shape)
    matrix = whole.reshape(as_matrix(shape))
    dim = len(shape) - 1 if rule == "row" else 0
    for tp_rank in range(2):
        cut = whole if rule == "replicate" else whole.chunk(2, dim=dim)[tp_rank]
        flat, part = cut.reshape(-1), part_of(shape, rule=rule, tp_rank=tp_rank, degree=2)
        for first, last in ((0, flat.numel()), (3, flat.numel() - 2), (5, 6), (0, flat.numel() + 4)):
            pieces = [
                matrix[part.rows.start + rows.start : part.rows.start + rows.stop][
                    :, part.columns.start : part.columns.stop
                ].reshape(-1)[start - rows.start * len(part.columns) : stop - rows.start * len(part.columns)]
                for start, stop, rows in part.stretch(first, last)
            ]
            assert torch.equal(torch.cat(pieces), flat[first:last]), (rule, shape, tp_rank, first, last)
