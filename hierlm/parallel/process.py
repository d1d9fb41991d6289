"""This process among the others of the job: rank, device, process group."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from hierlm.parallel.rendezvous import init_method
from hierlm.parallel.seams.deepspeed_names import init_distributed, leave_out_ops
from hierlm.run_dir import RunDir

GROUP_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class ProcessInfo:
    """Who this process is."""

    rank: int
    local_rank: int
    node: int  # counted from 0
    world_size: int
    device: torch.device


def read_environment() -> ProcessInfo:
    """From RANK/LOCAL_RANK/WORLD_SIZE, or from Slurm's names inside a job step, else a single process."""

    def read(*names: str, default: int) -> int:
        return next((int(os.environ[name]) for name in names if name in os.environ), default)

    in_step = "SLURM_STEP_ID" in os.environ  # a batch script has SLURM_PROCID too
    slurm = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS") if in_step else ("", "", "")
    local_rank = read("LOCAL_RANK", slurm[1], default=0)
    return ProcessInfo(
        rank=read("RANK", slurm[0], default=0),
        local_rank=local_rank,
        node=read("SLURM_NODEID", "GROUP_RANK", default=0),
        world_size=read("WORLD_SIZE", slurm[2], default=1),
        device=_device(local_rank),
    )


def start_processes(run_dir: RunDir | None = None) -> ProcessInfo:
    """Join the job's process group: NCCL where there is a GPU, gloo else.

    `run_dir` is where the tasks of a Slurm step find each other (`hierlm.meeting`).
    """
    info = read_environment()
    os.environ.update(RANK=str(info.rank), LOCAL_RANK=str(info.local_rank), WORLD_SIZE=str(info.world_size))
    if info.device.type == "cuda":
        torch.cuda.set_device(info.device)
        _keep_flight_records(run_dir)
    else:
        _without_shared_memory_op()
    if not dist.is_initialized():
        backend = "nccl" if info.device.type == "cuda" else "gloo"
        init_distributed(
            dist_backend=backend,
            auto_mpi_discovery=False,
            timeout=GROUP_TIMEOUT,
            verbose=False,
            init_method=init_method(info.world_size, run_dir=run_dir),
        )
    return info


def stop_processes() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def _keep_flight_records(run_dir: RunDir | None) -> None:
    """What a call of NCCL's that times out leaves goes to the run's logs, unless the site has another place for it."""
    if run_dir is not None:
        os.environ.setdefault("TORCH_FR_DUMP_TEMP_FILE", str(run_dir.logs.absolute() / "nccl-trace-rank-"))


def _without_shared_memory_op() -> None:
    """DeepSpeed would compile a C++ all-reduce that only its inference uses, for tens of seconds: leave it out."""
    leave_out_ops("shm")
