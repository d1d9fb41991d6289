"""ZeRO 1 and 2 send each gradient and each weight once a step, begin in the backward pass, and train as one process."""

from typing import Any

import pytest

from hierlm.config.load import load_config
from tests.benchmarks.messages import counted
from tests.distributed.runs import ALONE, Layout, Run, _text, differences, outcomes
from tests.distributed.spawn import run_ranks

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
    from hierlm.parallel.groups import stop_groups
    from hierlm.parallel.process import start_processes
    from hierlm.phases.timeline import Timeline

    process, found = start_processes(), []
    for stage, precision, reduced in cases:
        stop_groups()
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
