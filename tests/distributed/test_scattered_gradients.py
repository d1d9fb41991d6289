"""ZeRO 1 and 2 send each gradient and each weight once a step, begin in the backward pass, and train as one process."""

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from hierlm.checkpoint.digest import digest
from hierlm.checkpoint.universal import write_universal
from hierlm.config.load import load_config
from hierlm.durable import FileWriter
from hierlm.parallel.engine import TAG
from tests.benchmarks.messages import counted
from tests.distributed.runs import ALONE, Layout, Run, _text, differences, outcomes
from tests.distributed.spawn import end_groups, run_ranks

MODEL = ("model.num_layers=4", "model.hidden_dim=64", "model.num_heads=2", "model.ffn_dim=128", "model.vocab_size=97")
"""Over 100,000 parameters: several buckets."""
ROWS = ("phases.0.sequence_length=12", "phases.0.global_batch_size=16", "parallel.micro_batch_size=2")
PHASE = ("phases.0.duration.steps=2", "phases.0.learning_rate.warmup.steps=1")
MOST_VALUES = 2.02  # of n: once each gradient, once each weight; the rest is for norms and padding
LAYOUTS = [Layout(4, 1, 1, 1), Layout(4, 1, 1, 2), Layout(2, 2, 1, 1), Layout(2, 2, 1, 2), Layout(2, 1, 2, 1)]
SLICED = Layout(2, 2, 1)


def steps_as_sent(cases: list[tuple[int, str, str]]) -> list[tuple[float, set[int], float]]:
    """On each rank, of each (stage, precision, reduce_precision): values in n, bytes of one that is scattered, and the
    share of the last backward pass's gradients that were there when the first bucket left.
    """
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes
    from hierlm.phases.timeline import Timeline

    process, found = start_processes(), []
    for stage, precision, reduced in cases:
        end_groups()
        words = [*MODEL, *ROWS, *PHASE, f"train.precision={precision}", f"parallel.reduce_precision={reduced}"]
        config = load_config("configs/tiny/transformer.yaml", [*words, *Layout(4, 1, 1, stage).overrides])
        engine, timeline = Engine(config, process=process), Timeline(config.phases)
        parameters, made, mine = list(engine.module.parameters()), list[int](), list(engine.local_rows(16))
        tokens, targets = _text(16, 12, vocab_size=97, seed=0)
        with counted() as messages:
            for parameter in parameters:
                parameter.register_hook(lambda gradient, made=made, sent=messages: made.append(len(sent)))
            engine.train_step(tokens[mine], targets[mine], moment=timeline.at(0))
        num_values = sum(message.values for message in messages) / sum(p.numel() for p in parameters)
        last, first = made[-len(parameters) :], min(made)
        scattered = {message.value_bytes for message in messages if message.kind == "all_to_all"}
        found.append((num_values, scattered, sum(sent == first for sent in last) / len(parameters)))
    return found


@pytest.mark.slow
@pytest.mark.distributed
def test_each_gradient_and_each_weight_is_sent_once_a_step_from_the_middle_of_the_backward_pass_on() -> None:
    """With two micro-batches: what is sent after each of them would show."""
    cases = [(1, "fp32", "fp32"), (2, "fp32", "fp32"), (1, "bf16", "fp32"), (2, "bf16", "fp32"), (1, "bf16", "bf16")]
    for of_rank in run_ranks(steps_as_sent, 4, cases):
        for case, (values, scattered, share) in zip(cases, of_rank, strict=True):
            assert values <= MOST_VALUES, case
            assert scattered == {2 if case[2] == "bf16" else 4}, case
            assert share < 0.5, case


@pytest.mark.slow
@pytest.mark.distributed
def test_losses_norms_and_moments_are_those_of_one_process(tmp_path: Any) -> None:
    """Of models that are several buckets, with weights tied over stages, and clipped.

    Slices of so long sums differ from one process by more, without ZeRO as well: there it is ZeRO 0 that is compared.
    """
    words = (*MODEL, *ROWS, *PHASE, "model.tie_embeddings=true", "optim.gradient_clip=0.1")
    runs = [Run("transformer", words, layout) for layout in (ALONE, SLICED, *LAYOUTS)]
    alone, sliced, *found = outcomes(runs, tmp_path)
    expected = [sliced if layout.tp > 1 else alone for layout in LAYOUTS]
    wrong = {str(layout): differences(*both) for layout, *both in zip(LAYOUTS, found, expected, strict=True)}
    assert not any(wrong.values()), wrong


def life_of_a_checkpoint(stage: int, precision: str, root: str) -> dict[str, Any]:
    """On every rank: steps 2 and 3 after a checkpoint without buckets, which the second engine has, and the digests of
    what it holds then and of what the third one loads of it.
    """
    from hierlm.parallel import zero
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.groups import stop_groups
    from hierlm.parallel.process import start_processes
    from hierlm.phases.timeline import Timeline

    process, folder, smallest = start_processes(), Path(root), zero.SMALLEST_SHARE
    words = [*MODEL, *ROWS, *PHASE, "phases.0.duration.steps=4", f"train.precision={precision}"]
    config = load_config("configs/tiny/transformer.yaml", [*words, *Layout(2, 1, 1, stage).overrides])
    timeline = Timeline(config.phases)

    def engine_with(*, share: int) -> Engine:
        stop_groups()  # the engines before keep theirs
        zero.SMALLEST_SHARE = share
        return Engine(config, process=process)

    def steps(engine: Engine, numbers: range) -> list[tuple[float, float]]:
        mine, found = list(engine.local_rows(16)), []
        for number in numbers:
            tokens, targets = _text(16, 12, vocab_size=97, seed=number)
            result = engine.train_step(tokens[mine], targets[mine], moment=timeline.at(number))
            found.append((engine.send(result).read().loss, float(result.grad_norm)))
        return found

    def save(engine: Engine, name: str) -> dict[str, Any]:
        engine.save(folder / name, client_state={}, open_file=FileWriter(folder / name).open)
        dist.barrier()
        return dict(digest(folder / name / TAG))

    whole = engine_with(share=10**9)
    steps(whole, range(2))
    of_old = save(whole, "old")
    if dist.get_rank() == 0:
        write_universal(folder / "old" / TAG, folder / "universal", progress=lambda done, total: None)
    dist.barrier()
    parted = engine_with(share=smallest)
    is_grouped_alike = parted.is_grouped_as(folder / "old")
    parted.load_converted(folder / "universal")
    of_new, rest = save(parted, "new"), steps(parted, range(2, 4))
    again = engine_with(share=smallest)
    again.load(folder / "new")
    return {
        "alike": (is_grouped_alike, again.is_grouped_as(folder / "new")),
        "digests": (of_old, of_new),
        "rest": (steps(whole, range(2, 4)), rest, steps(again, range(2, 4))),
    }


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("stage", "precision"), [(1, "bf16"), (2, "fp32")])
def test_a_checkpoint_from_before_there_were_buckets_goes_on(stage: int, precision: str, tmp_path: Path) -> None:
    """And one of buckets resumes to the last bit."""
    found = run_ranks(life_of_a_checkpoint, 2, stage, precision, str(tmp_path))[0]
    assert found["alike"] == (False, True)
    of_old, of_new = found["digests"]
    assert of_old == of_new
    whole, parted, again = found["rest"]
    assert again == parted
    assert [value for step in parted for value in step] == pytest.approx([value for step in whole for value in step])
