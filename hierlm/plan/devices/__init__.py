"""The devices `hierlm plan --device` knows: a file of configs/devices each, or a file here, found by name, with
`device(*, processes) -> Device`. Torch-free.

To add one, copy configs/devices/h100.yaml, in place or to a file of your own (`--device FILE`); one that must be
measured is a module, as cpu.py is, outside of hierlm a plugin (docs/plugins.md).
"""

from hierlm.config.problem import nearest, sentence
from hierlm.discovery import is_named, module_named, names_in
from hierlm.errors import UserError
from hierlm.plan.device import Device
from hierlm.plan.device_file import SHIPPED, is_file_name, read_device, shipped, shipped_names


def _told_names() -> dict[str, float]:
    files = (read_device(SHIPPED / f"{name}.yaml") for name in shipped_names())
    return {file.told_as: file.bf16_flops for file in files if file.told_as is not None}


BF16_PEAK_FLOPS = {  # dense, without sparsity; the makers' data sheets
    **_told_names(),
    "L40S": 362e12,
    "V100": 125e12,
}
"""By a part of the name a GPU tells."""


def names() -> list[str]:
    """Every device, by name."""
    return sorted({*names_in(__name__), *shipped_names()})


def check(name: str) -> None:
    """UserError unless there is such a device: one line with the known ones and the nearest, or all that is wrong with
    a file. Imports nothing that takes time."""
    if is_file_name(name):
        read_device(name)
    elif not is_named(name, package=__name__) and name not in shipped_names():
        known = names()
        allowed = f"{', '.join(known)}, or a file (.yaml) like those of configs/devices"
        raise UserError(f"--device: {sentence(f'given {name}', allowed=allowed, near=nearest(name, known))}")


def device(name: str, *, processes: int) -> Device:
    """A named device, or that of a file, among so many processes of a run; UserError as `check`."""
    check(name)
    if is_file_name(name):
        return read_device(name).device()
    if not is_named(name, package=__name__):
        return shipped(name)
    found: Device = module_named(name, package=__name__).device(processes=processes)
    return found
