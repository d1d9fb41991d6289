"""NVIDIA A100 80GB SXM: configs/devices/a100.yaml."""

from hierlm.plan.device import Device
from hierlm.plan.device_file import shipped

A100 = shipped("a100")


def device(*, processes: int) -> Device:
    """The same for any number of processes: each has one."""
    return A100
