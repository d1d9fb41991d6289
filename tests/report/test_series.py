"""Curves over every axis, thinning, smoothing, phase starts."""

import pytest

from hierlm.report.run_record import load_run
from hierlm.report.series import Curve, evaluation_curve, phase_starts, smoothed, thinned, training_curve
from tests.report.conftest import STEP_SECONDS, MakeRun, loss_at


def test_a_training_curve_stands_at_the_same_steps_on_every_axis(make_run: MakeRun) -> None:
    curve = training_curve(load_run(make_run("a").path), "loss")
    assert curve.y == pytest.approx([loss_at(step, floor=1.0) for step in range(5, 101, 5)])
    assert list(curve.x["steps"]) == list(range(5, 101, 5))
    assert list(curve.x["tokens"]) == [1024 * step for step in curve.x["steps"]]
    assert curve.x["seconds"] == pytest.approx([STEP_SECONDS * step for step in curve.x["steps"]])
    assert curve.x["flops"] == pytest.approx([6e6 * tokens for tokens in curve.x["tokens"]])


def test_an_evaluation_stands_where_its_step_does(make_run: MakeRun) -> None:
    curve = evaluation_curve(load_run(make_run("a").path), "bits_per_byte")
    assert list(curve.x["tokens"]) == [1024 * step for step in (25, 50, 75, 100)]


def test_a_phase_starts_after_the_last_step_of_the_one_before(make_run: MakeRun) -> None:
    (start,) = phase_starts(load_run(make_run("a").path))
    assert (start.name, start.x["steps"]) == ("long", 50)


@pytest.mark.parametrize("num_points", [1, 9, 10, 11, 99, 100, 101])
def test_thinning_keeps_the_mean_and_the_last_place(num_points: int) -> None:
    ys = [float(i * i) for i in range(num_points)]
    curve = thinned(Curve({"steps": [float(i) for i in range(num_points)]}, ys), most_points=10)
    assert len(curve.y) <= 10
    assert curve.x["steps"][-1] == num_points - 1
    if num_points % 10 == 0:
        assert sum(curve.y) / len(curve.y) == pytest.approx(sum(ys) / num_points)


def test_smoothing_leaves_a_constant_alone_and_short_curves_as_they_are() -> None:
    assert smoothed([3.0] * 50, window=10) == pytest.approx([3.0] * 50)
    assert smoothed([1.0, 5.0, 2.0], window=0.1) == [1.0, 5.0, 2.0]
    noisy = [float(i % 2) for i in range(1000)]
    assert all(abs(value - 0.5) < 0.06 for value in smoothed(noisy, window=20)[100:])
