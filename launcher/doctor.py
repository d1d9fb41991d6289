"""What this machine has for training. torch and DeepSpeed are asked in a process of their own, never imported here."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from hierlm.refused_versions import version_problems

OLDEST_PYTHON = (3, 11)
PROBE_SECONDS = 180
VERSIONS = "versions"
TRACKER_SECONDS = 5
FREE_BYTES_WANTED = 5 * 1024**3

FOLDERS = ("TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TORCH_EXTENSIONS_DIR", "TRITON_HOME", "TRITON_CACHE_DIR")
"""Environment variables that say where temporary files and caches go."""

State = Literal["ok", "absent", "wrong"]
"""absent: not needed on every machine. wrong: training will not work."""

TORCH_PROBE = """
import json, torch
devices = []
for i in range(torch.cuda.device_count()):
    p = torch.cuda.get_device_properties(i)
    devices.append({"name": p.name, "memory_bytes": p.total_memory})
nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else None
gloo = torch.distributed.is_available() and torch.distributed.is_gloo_available()
found = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": devices, "nccl": nccl, "gloo": gloo}
print(json.dumps(found))
"""
DEEPSPEED_PROBE = """
import json, deepspeed
from deepspeed.accelerator import get_accelerator
from deepspeed.ops.op_builder.all_ops import ALL_OPS
ops = {n: bool(b.is_compatible(verbose=False)) for n, b in ALL_OPS.items() if b and n != "deepspeed_not_implemented"}
print(json.dumps({"version": deepspeed.__version__, "accelerator": get_accelerator()._name, "ops": ops}))
"""


@dataclass(frozen=True)
class Check:
    """One finding; `detail` says what was found, or what to do."""

    name: str
    state: State
    detail: str


def examine(*, tracker_uri: str, say: Callable[[str], None]) -> Iterator[Check]:
    """All checks, the slow ones announced through `say`."""
    yield python()
    yield machine()
    say("asking torch")
    yield from torch(ask(TORCH_PROBE))
    say("asking DeepSpeed")
    yield deepspeed(ask(DEEPSPEED_PROBE))
    yield from packages()
    yield versions()
    yield compiler()
    yield slurm()
    yield disk(Path.cwd())
    yield tracker(tracker_uri)


def python() -> Check:
    oldest = ".".join(map(str, OLDEST_PYTHON))
    fits = sys.version_info[:2] >= OLDEST_PYTHON
    detail = f"{platform.python_version()} at {sys.executable}" + ("" if fits else f"; needs {oldest} or newer")
    return Check("python", "ok" if fits else "wrong", detail)


def machine() -> Check:
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Check("machine", "ok", f"{len(os.sched_getaffinity(0))} cores, {_gib(pages * page_bytes)} memory")


def torch(answer: dict[str, Any]) -> Iterator[Check]:
    """Torch itself and the GPUs it sees."""
    if "error" in answer:
        yield Check("torch", "wrong", answer["error"])
        return
    backends = [name for name, there in (("gloo", answer["gloo"]), (f"NCCL {answer['nccl']}", answer["nccl"])) if there]
    yield Check("torch", "ok", f"{answer['version']}, CUDA {answer['cuda'] or 'none'}, {', '.join(backends)}")
    devices = [f"{device['name']} {_gib(device['memory_bytes'])}" for device in answer["devices"]]
    yield Check("gpus", "ok" if devices else "absent", ", ".join(devices) or "none: training runs on the CPU over gloo")


def deepspeed(answer: dict[str, Any]) -> Check:
    if "error" in answer:
        return Check("deepspeed", "wrong", answer["error"])
    usable = sorted(name for name, compatible in answer["ops"].items() if compatible)
    return Check(
        "deepspeed", "ok", f"{answer['version']} on {answer['accelerator']}; ops: {', '.join(usable) or 'none'}"
    )


def packages() -> Iterator[Check]:
    for name in ("megatron-core", "webdataset", "mlflow", "sentencepiece"):
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            yield Check(name, "wrong", "not installed; install the project with its dependencies")


def versions() -> Check:
    """Packages that are there and known to compute wrong."""
    problems = version_problems()
    if problems:
        return Check(VERSIONS, "wrong", "; ".join(problems))
    return Check(VERSIONS, "ok", "none of those that are known to train wrong")


def compiler() -> Check:
    """For `train.compile` and a GPU's fused loss; operations that DeepSpeed would compile on first use are not used."""
    found = {name: shutil.which(name) for name in ("g++", "ninja", "nvcc")}
    if not found["g++"]:
        return Check("compiler", "absent", "no g++: no `train.compile`, and a slower loss on a GPU; all else works")
    return Check("compiler", "ok", ", ".join(path for path in found.values() if path))


def slurm() -> Check:
    if not shutil.which("sbatch"):
        return Check("slurm", "absent", "no sbatch here: `hierlm train` works, `hierlm submit` needs a login node")
    answer = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        complaint = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
        return Check("slurm", "absent", f"sbatch is here but knows no cluster: {complaint}")
    return Check("slurm", "ok", answer.stdout.strip())


def disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    return Check("disk", "ok" if free >= FREE_BYTES_WANTED else "wrong", f"{_gib(free)} free in {folder}")


def tracker(uri: str) -> Check:
    """Whether metrics can be followed now; a run never waits for it."""
    if uri == "none":
        return Check("tracker", "absent", "none: metrics.jsonl only")
    scheme = uri.partition("://")[0]
    if scheme == "sqlite":
        return _sqlite_tracker(Path(uri.removeprefix("sqlite:///")))
    if scheme in ("http", "https"):
        return _http_tracker(uri)
    return Check("tracker", "absent", f"{uri}: not asked, only sqlite and http(s) are")


def ask(probe: str) -> dict[str, Any]:
    """The JSON a Python program prints as its last line; {"error": its last complaint} otherwise."""
    command = [sys.executable, "-c", probe]
    try:
        with _own_folders() as environment:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
            )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {PROBE_SECONDS} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        complaints = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"error": complaints[-1]}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


@contextmanager
def _own_folders() -> Iterator[dict[str, str]]:
    """An environment in which whatever a library leaves behind, or compiles on trial, lies in a folder that goes again:
    below the current directory, or where that cannot be written where temporary files are."""
    below = Path.cwd() if os.access(Path.cwd(), os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=below, ignore_cleanup_errors=True) as folder:
        yield {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **dict.fromkeys(FOLDERS, folder)}


def _sqlite_tracker(path: Path) -> Check:
    folder = next(parent for parent in (path.parent, *path.absolute().parents) if parent.is_dir())
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check("tracker", "ok", f"database {path}{'' if path.exists() else ' (made by the first run)'}")
    except OSError as error:
        return Check("tracker", "wrong", f"{folder}: cannot be written: {error.strerror}")


def _http_tracker(uri: str) -> Check:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=TRACKER_SECONDS) as answer:
            return Check("tracker", "ok", f"{uri} answers {answer.status}")
    except urllib.error.HTTPError as error:
        return Check("tracker", "ok", f"{uri} answers {error.code}")
    except OSError as error:
        return Check(
            "tracker", "absent", f"{uri} does not answer ({error}); runs keep metrics.jsonl and catch up later"
        )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 1024**3:.1f} GiB"
