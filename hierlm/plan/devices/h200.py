"""NVIDIA H200 SXM: configs/devices/h200.yaml."""

from hierlm.plan.device import Device
from hierlm.plan.device_file import shipped

H200 = shipped("h200")


def device(*, processes: int) -> Device:
    """The same for any number of processes: each has one."""
    return H200
