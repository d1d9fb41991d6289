"""Samples of a node."""

from pathlib import Path
from typing import Any

from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_records
from hierlm.tracking.system import SystemSampler, node_values, parse_gpus, system_file
from tests.tracking.servers import until


def test_samples_are_counted_on_over_attempts(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    for least in (3, 6):
        sampler = SystemSampler(run_dir, node=3, interval_seconds=0.01, probe=lambda: {"load": 1.0})
        until(lambda enough=least: len(_samples(run_dir, node="node3")) >= enough)
        sampler.stop()
    records = _samples(run_dir, node="node3")
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    assert len(records) >= 6


def _samples(run_dir: RunDir, *, node: str) -> list[dict[str, Any]]:
    return read_records(system_file(run_dir, node=node))


def test_a_sensor_that_fails_leaves_out_the_sample_and_stops_nothing(tmp_path: Path) -> None:
    answers = iter([{"load": 1.0}, None, {"load": 2.0}] + [{"load": 3.0}] * 10_000)

    def probe() -> dict[str, float]:
        answer = next(answers)
        if answer is None:
            raise OSError("sensor gone")
        return answer

    sampler = SystemSampler(RunDir(tmp_path), node=0, interval_seconds=0.01, probe=probe)
    until(lambda: len(_samples(RunDir(tmp_path), node="node0")) >= 3)
    sampler.stop()
    loads = [record["load"] for record in _samples(RunDir(tmp_path), node="node0")]
    assert loads[:3] == [1.0, 2.0, 3.0]


def test_this_machine_can_be_sampled() -> None:
    values = node_values()
    assert 0 < values["system_memory_usage_percentage"] < 100
    assert values["system_memory_usage_megabytes"] > 100


def test_what_a_gpu_does_not_tell_is_left_out() -> None:
    assert parse_gpus("0, 97, 65210, 512.3\n1, [N/A], 10, [N/A]\n") == {
        "gpu_0_utilization_percentage": 97.0,
        "gpu_0_memory_usage_megabytes": 65210.0,
        "gpu_0_power_usage_watts": 512.3,
        "gpu_1_memory_usage_megabytes": 10.0,
    }
