"""NVIDIA H100 SXM5 80GB: configs/devices/h100.yaml."""

from hierlm.plan.device import Device
from hierlm.plan.device_file import shipped

H100 = shipped("h100")


def device(*, processes: int) -> Device:
    """The same for any number of processes: each has one."""
    return H100
