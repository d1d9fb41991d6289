"""What each node of a run does besides training steps: processors, memory, network, GPUs.

One process per node samples in a background thread into logs/system-<node>.jsonl; the tracker follows these files like
metrics.jsonl. Metric names are MLflow's own, so its UI shows them where it shows system metrics.
"""

import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from hierlm.lease import UNFENCED, Fence
from hierlm.metric_names import KIND, NODE, STEP, SYSTEM
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import MetricsFile, read_records

_MEGABYTE = 1e6
_GPU_FIELDS = {
    "utilization.gpu": "utilization_percentage",
    "memory.used": "memory_usage_megabytes",
    "power.draw": "power_usage_watts",
}

Values = dict[str, float]


class SystemSampler:
    """Samples from its creation until `stop`; a sample that fails is left out and never disturbs training."""

    def __init__(
        self,
        run_dir: RunDir,
        *,
        node: int,
        interval_seconds: float = 15.0,
        probe: Callable[[], Values] | None = None,
        lease: Fence = UNFENCED,
    ) -> None:
        """`node` counts from 0; the number of samples continues over attempts. `probe` replaces the real sensors."""
        self._node, self._interval, self._probe = f"node{node}", interval_seconds, probe or node_values
        path = system_file(run_dir, node=self._node)
        self._next = 1 + max((record[STEP] for record in read_records(path)), default=0)
        self._file = MetricsFile(path, lease=lease)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when the file is complete."""
        self._stopped.set()
        self._thread.join(timeout=10.0)
        self._file.close()

    def _run(self) -> None:
        while not self._stopped.wait(timeout=self._interval):
            try:
                self._file.write({KIND: SYSTEM, STEP: self._next, NODE: self._node, **self._probe()})
            except Exception:  # a sensor or a disk that fails is no reason to stop anything
                continue
            self._next += 1


def system_file(run_dir: RunDir, *, node: str) -> Path:
    return run_dir.logs / f"system-{node}.jsonl"


def system_files(run_dir: RunDir) -> list[Path]:
    """Of all nodes that sampled so far."""
    return sorted(run_dir.logs.glob("system-*.jsonl"))


def node_values() -> Values:
    """Now, of this node."""
    import psutil

    memory, network = psutil.virtual_memory(), psutil.net_io_counters()
    return {
        "cpu_utilization_percentage": float(psutil.cpu_percent()),
        "system_memory_usage_megabytes": memory.used / _MEGABYTE,
        "system_memory_usage_percentage": float(memory.percent),
        "network_receive_megabytes": network.bytes_recv / _MEGABYTE if network else 0.0,
        "network_transmit_megabytes": network.bytes_sent / _MEGABYTE if network else 0.0,
        **_gpu_values(),
    }


def _gpu_values() -> Values:
    """Nothing without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = [program, f"--query-gpu=index,{','.join(_GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False).stdout
    return parse_gpus(answer)


def parse_gpus(answer: str) -> Values:
    """`0, 97, 65210, 512.3` -> `gpu_0_utilization_percentage`, ...; what a GPU does not tell (`[N/A]`) is left out."""
    values: Values = {}
    for line in answer.splitlines():
        index, *fields = (field.strip() for field in line.split(","))
        for name, field in zip(_GPU_FIELDS.values(), fields, strict=False):
            if field.replace(".", "", 1).isdigit():
                values[f"gpu_{index}_{name}"] = float(field)
    return values
