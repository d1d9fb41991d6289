"""A phase that trains some parameters leaves the others as they are, at every ZeRO stage and in every layout."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hierlm.checkpoint.canonical import read_canonical
from hierlm.checkpoint.universal import write_universal
from hierlm.config.load import load_config
from hierlm.durable import FileWriter
from hierlm.errors import UserError
from hierlm.parallel.engine import TAG
from hierlm.phases.timeline import Timeline
from tests.distributed.sizes import TWO_LAYERS
from tests.distributed.spawn import RankFailedError, run_ranks

PHASES = (
    "[{name: all, duration: {steps: 2}, sequence_length: 16, global_batch_size: 4,"
    " learning_rate: {peak: 0.01, decay: constant}},"
    r" {name: some, duration: {steps: 2}, trainable: ['layers\.2', 'layers\.\d+\.attention_norm']},"
    r" {name: other, duration: {steps: 2}, trainable: ['layers\.1', 'layers\.0']}]"
)
SMALL = [
    *TWO_LAYERS,
    f"phases={PHASES}",
    "parallel.micro_batch_size=1",
    "optim.weight_decay=0.3",
]
STEPS = 6


def layout(dp: int, tp: int, pp: int, zero: int, precision: str = "fp32") -> list[str]:
    return [
        f"parallel.data_parallel_degree={dp}",
        f"parallel.tensor_parallel_degree={tp}",
        f"parallel.pipeline_parallel_degree={pp}",
        f"parallel.zero_stage={zero}",
        f"train.precision={precision}",
    ]


def train(overrides: list[str], first: int, last: int, saves: dict[int, str], load: str, converted: bool) -> Any:
    """On one rank: loss and gradient norm of steps first..last-1; saved after the steps in `saves`."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    config = load_config("configs/tiny/transformer.yaml", [*SMALL, *overrides])
    engine, timeline, found = Engine(config, process=start_processes()), Timeline(config.phases), []
    if load:
        (engine.load_converted if converted else engine.load)(Path(load))
    for step in range(first, last):
        whole = torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(step))
        mine = whole[list(engine.local_rows(4))]
        result = engine.train_step(mine[:, :-1], mine[:, 1:], moment=timeline.at(step))
        found.append((engine.global_mean(result.loss), float(result.grad_norm)))
        if folder := saves.get(step + 1):
            engine.save(Path(folder), client_state={}, open_file=FileWriter(Path(folder)).open)
    return found


def run(
    overrides: list[str], first: int, last: int, *, saves: Any = None, load: str = "", converted: bool = False
) -> Any:
    given = dict(word.split("=", 1) for word in overrides)
    world = 1
    for axis in ("data", "tensor", "pipeline"):
        world *= int(given[f"parallel.{axis}_parallel_degree"])
    return run_ranks(train, world, overrides, first, last, saves or {}, load, converted)[0]


def state_of(folder: str) -> dict[str, tuple[int, list[Tensor]]]:
    """Name -> updates counted, weight and moments."""
    state = read_canonical(Path(folder) / TAG)
    return {
        name: (state.counts_of(name).get("step", 0), [state.tensor(name, kind) for kind in state.kinds])
        for name in state.names
    }


def is_trained(name: str, phase: int) -> bool:
    some = name.startswith("layers.2.") or ".attention_norm." in name
    return [True, some, name.startswith(("layers.1.", "layers.0."))][phase]


LAYOUTS = [
    pytest.param((2, 1, 1, 1), "fp32", id="dp2-zero1"),
    pytest.param((2, 1, 1, 3), "bf16", id="dp2-zero3-bf16"),
    pytest.param((1, 2, 2, 1), "bf16", id="tp2-pp2-zero1-bf16", marks=pytest.mark.slow),
    *(
        pytest.param(where, precision, marks=pytest.mark.slow, id="-".join(map(str, (*where, precision))))
        for where, precision in [
            ((1, 1, 1, 0), "fp32"),
            ((2, 1, 1, 0), "fp32"),
            ((2, 1, 1, 2), "fp32"),
            ((2, 1, 1, 3), "fp32"),
            ((2, 1, 1, 1), "bf16"),
            ((1, 2, 1, 0), "fp32"),
            ((1, 1, 2, 0), "fp32"),
            ((2, 1, 2, 1), "fp32"),
        ]
    ),
]


@pytest.mark.distributed
@pytest.mark.parametrize(("where", "precision"), LAYOUTS)
def test_what_a_phase_does_not_train_keeps_weight_moments_and_count_to_the_last_bit(
    where: tuple[int, int, int, int], precision: str, tmp_path: Path
) -> None:
    saves = {step: str(tmp_path / str(step)) for step in (2, 4, 6)}
    run(layout(*where, precision), 0, STEPS, saves=saves)
    states = [state_of(saves[step]) for step in (2, 4, 6)]
    for phase, (before, after) in enumerate(pairwise(states), start=1):
        kinds = {is_trained(name, phase) for name in before}
        assert kinds == {True, False}
        for name, (count, tensors) in before.items():
            same = [torch.equal(a, b) for a, b in zip(tensors, after[name][1], strict=True)]
            trained = is_trained(name, phase)
            assert after[name][0] == count + 2 * trained, name
            assert any(same) is not trained and all(same) is not trained, name


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    "where",
    [
        (2, 1, 1, 3),
        (1, 2, 2, 1),
        (1, 1, 1, 0),
        (2, 1, 1, 1),
        (2, 1, 1, 2),
        (1, 2, 1, 0),
    ],
    ids=lambda where: "-".join(map(str, where)),
)
def test_the_gradient_norm_is_that_of_the_trained_parameters(where: tuple[int, int, int, int]) -> None:
    """Squares of the norms over two halves of the model add up to that over all of it."""

    def first_norm(trainable: str) -> float:
        return float(run([*layout(*where), f"phases.0.trainable={trainable}"], 0, 1)[0][1])

    whole, *halves = map(first_norm, ("null", r"['layers\.[01]']", r"['layers\.[2-9]']"))
    assert all(0 < half < whole for half in halves)
    assert sum(half**2 for half in halves) == pytest.approx(whole**2, rel=1e-5)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_run_saved_where_parameters_are_frozen_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    where, folder = layout(2, 1, 1, 1), str(tmp_path)
    whole = run(where, 0, STEPS, saves={3: folder})
    assert run(where, 3, STEPS, load=folder) == whole[3:]


@pytest.mark.distributed
@pytest.mark.parametrize(
    "target", [(1, 1, 1, 0), *(pytest.param(t, marks=pytest.mark.slow) for t in [(1, 2, 1, 1), (2, 1, 1, 3)])]
)
def test_update_counts_of_frozen_parameters_survive_a_change_of_layout(target: Any, tmp_path: Path) -> None:
    saved, universal, end = (str(tmp_path / name) for name in ("saved", "universal", "end"))
    expected_end = str(tmp_path / "expected")
    whole = run(layout(2, 1, 1, 1), 0, STEPS, saves={3: saved, STEPS: expected_end})
    write_universal(Path(saved) / TAG, Path(universal), progress=lambda done, total: None)
    rest = run(layout(*target), 3, STEPS, saves={STEPS: end}, load=universal, converted=True)
    torch.testing.assert_close(torch.tensor(rest), torch.tensor(whole[3:]), rtol=1e-5, atol=0)
    counts = [{name: count for name, (count, _) in state_of(folder).items()} for folder in (end, expected_end)]
    assert counts[0] == counts[1]
    assert len(set(counts[0].values())) > 1


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("where", [(2, 1, 1, 1), (2, 1, 1, 3)])
def test_a_run_that_learns_later_what_to_freeze_is_grouped_anew(where: Any, tmp_path: Path) -> None:
    saved, universal = str(tmp_path / "saved"), str(tmp_path / "universal")
    only_first = [*layout(*where), f"phases={PHASES.partition(', {name: some')[0]}]"]
    run(only_first, 0, 2, saves={2: saved})
    assert run_ranks(is_grouped_as, 2, only_first, saved) == [True, True]
    assert run_ranks(is_grouped_as, 2, layout(*where), saved) == [False, False]
    write_universal(Path(saved) / TAG, Path(universal), progress=lambda done, total: None)
    rest = run(layout(*where), 2, STEPS, load=universal, converted=True)
    whole = run(layout(*where), 0, STEPS)
    torch.testing.assert_close(torch.tensor(rest), torch.tensor(whole[2:]), rtol=1e-5, atol=0)


def is_grouped_as(overrides: list[str], folder: str) -> bool:
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    config = load_config("configs/tiny/transformer.yaml", [*SMALL, *overrides])
    return Engine(config, process=start_processes()).is_grouped_as(Path(folder))


@pytest.mark.distributed
def test_a_pattern_without_a_parameter_is_refused_when_the_engine_is_built() -> None:
    with pytest.raises(RankFailedError, match=rf"{UserError.__name__}: phases.0.trainable.0: given \"layers.77\""):
        run([*layout(1, 1, 1, 0), "phases.0.trainable=['layers.77']"], 0, 1)
