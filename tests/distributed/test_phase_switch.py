"""A switch changes what the next phase names and nothing else; one that does is stopped at."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from hierlm.config.load import load_config
from hierlm.phases.timeline import Timeline
from tests.distributed.spawn import RankFailedError, run_ranks

SMALL = [
    "model.num_layers=2",
    "model.hidden_dim=16",
    "model.num_heads=4",
    "model.ffn_dim=32",
    "model.vocab_size=64",
    "model.memory_length=12",
    "parallel.micro_batch_size=1",
]
FIRST = "name: first, duration: {steps: 2}, sequence_length: 8, global_batch_size: 4, learning_rate: {peak: 0.01}"


def train(overrides: list[str], second: str, sabotage: str | None) -> Any:
    """On one rank: what three steps over a phase boundary have done, with a fault in the first step of phase two."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    phases = f"phases=[{{{FIRST}}}, {{name: second, duration: {{steps: 2}}, {second}}}]"
    config = load_config("configs/tiny/skip_cross_head_xl.yaml", [*SMALL, phases, *overrides])
    engine, timeline, losses = Engine(config, process=start_processes()), Timeline(config.phases), []
    for step in range(3):
        moment = timeline.at(step)
        if sabotage and step == 2:
            spoil(engine, sabotage)
        size = moment.phase.global_batch_size
        whole = torch.randint(
            0, 64, (size, moment.phase.sequence_length + 1), generator=torch.Generator().manual_seed(step)
        )
        mine = list(engine.local_rows(size))
        starts = torch.full((len(mine),), moment.first_sample == 0)
        result = engine.train_step(whole[mine, :-1], whole[mine, 1:], moment=moment, starts=starts)
        losses.append(engine.global_mean(result.loss))
    layer = next(layer for layer in engine.module.local_layers.values() if hasattr(layer, "is_skipped"))
    return {
        "updates": {int(state["step"]) for state in engine._engine.basic_optimizer.state.values()},
        "rate": {group["lr"] for group in engine._engine.optimizer.param_groups},
        "memory_length": layer.training_memory_length,
        "micro_batches": engine._num_micro_batches,
        "losses": losses,
    }


def spoil(engine: Any, what: str) -> None:
    """Make the beginning of the next phase do what no switch may."""
    layer = list(engine.module.local_layers.values())[1]
    begin_phase = engine.begin_phase

    def spoiled(phase: Any, *, reset: bool) -> None:
        begin_phase(phase, reset=reset)
        optimizer = engine._engine.basic_optimizer
        if what == "weights":
            layer.block.feed_forward.contract.bias.data[0] += 1e-3
        elif what == "moments":
            next(iter(optimizer.state.values()))["exp_avg"].view(-1)[0] += 1e-6
        elif what == "settings":
            optimizer.param_groups[0]["weight_decay"] = 0.5
        elif what == "evaluation":
            layer.recurrence = replace(layer.recurrence, evaluation_clamp_distance=1)
        elif what == "memory":
            engine._passes.training_lanes.clear()

    engine.begin_phase = spoiled


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("weights", "weights, evaluation of fixed rows"),
        *(
            pytest.param(what, told, marks=pytest.mark.slow)
            for what, told in [
                ("moments", "optimizer state"),
                ("settings", "optimizer settings"),
                ("evaluation", "evaluation of fixed rows"),
                ("memory", "recurrent memory"),
            ]
        ),
    ],
)
def test_a_switch_that_changes_more_than_its_phase_names_is_stopped_at(what: str, told: str) -> None:
    with pytest.raises(RankFailedError, match=rf"SwitchError: the switch to phase second changed {told}, which"):
        run_ranks(train, 1, [], "model: {memory_length: 8}", what)


LAYOUTS = {
    "one": [],
    "dp2-zero3": ["parallel.data_parallel_degree=2", "parallel.zero_stage=3"],
    "dp2-pp2": ["parallel.data_parallel_degree=2", "parallel.pipeline_parallel_degree=2", "parallel.zero_stage=1"],
}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("where", ["one", "dp2-zero3", "dp2-pp2"])
def test_each_thing_a_phase_may_change_changes_and_the_rest_is_kept(where: str) -> None:
    world = {"one": 1, "dp2-zero3": 2, "dp2-pp2": 4}[where]

    def after(second: str) -> dict[str, Any]:
        return run_ranks(train, world, LAYOUTS[where], second, None)[0]

    plain = after("optimizer_state: keep")
    assert plain["updates"] == {3}
    assert (plain["memory_length"], plain["micro_batches"]) == (12, 4 // (1 if world == 1 else 2))
    assert after("optimizer_state: reset")["updates"] == {1}
    assert after("model: {memory_length: 5}")["memory_length"] == 5
    assert after("global_batch_size: 8")["micro_batches"] == 2 * plain["micro_batches"]
    assert after("learning_rate: {peak: 0.5, decay: constant}")["rate"] == {0.5}
    changes = ("model: {layer_skip: uniform}", "model: {cross_head_probability: 1}", "sequence_length: 6")
    for change in changes:
        changed = after(change)
        assert changed["losses"][:2] == plain["losses"][:2]
        assert changed["losses"][2] != plain["losses"][2], change


def norms(overrides: list[str]) -> list[tuple[float, float]]:
    """On one rank: loss and gradient norm of each step of phases of 4, 12 and 8 rows."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    sizes = "{name: more, global_batch_size: 12}, {name: fewer, global_batch_size: 8}"
    config = load_config("configs/tiny/transformer.yaml", [f"phases=[{{{FIRST}}}, {sizes}]", *overrides])
    engine, timeline, found = Engine(config, process=start_processes()), Timeline(config.phases), []
    for step in range(timeline.num_steps):
        moment = timeline.at(step)
        size = moment.phase.global_batch_size
        whole = torch.randint(0, 256, (size, 9), generator=torch.Generator().manual_seed(step))
        mine = whole[list(engine.local_rows(size))]
        result = engine.train_step(mine[:, :-1], mine[:, 1:], moment=moment)
        found.append((engine.global_mean(result.loss), float(result.grad_norm)))
    return found


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("dp", "pp", "zero"),
    [(1, 1, 0), *(pytest.param(*w, marks=pytest.mark.slow) for w in [(2, 1, 1), (2, 1, 2), (2, 1, 3), (1, 2, 1)])],
)
def test_every_step_of_a_phase_of_another_batch_is_the_mean_over_all_its_rows(dp: int, pp: int, zero: int) -> None:
    """4 rows are no multiple of 12 micro-batches, nor 12 of 8: DeepSpeed's own count would end steps half-way."""
    layout = [f"parallel.data_parallel_degree={dp}", f"parallel.pipeline_parallel_degree={pp}"]
    cut = run_ranks(norms, dp * pp, [*layout, f"parallel.zero_stage={zero}", "parallel.micro_batch_size=1"])[0]
    [whole] = run_ranks(norms, 1, [])
    torch.testing.assert_close(torch.tensor(cut), torch.tensor(whole), rtol=1e-5, atol=0)
