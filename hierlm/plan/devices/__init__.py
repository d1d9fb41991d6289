"""The devices `hierlm plan --device` knows: one file each, found by name, with `device(*, processes) -> Device`.

To add one, copy h100.py; outside of hierlm as a plugin (docs/plugins.md).
"""

from hierlm.discovery import is_named, module_named, names_in
from hierlm.errors import UserError
from hierlm.plan.device import Device
from hierlm.plan.devices.a100 import A100
from hierlm.plan.devices.h100 import H100
from hierlm.plan.devices.h200 import H200

BF16_PEAK_FLOPS = {  # dense, without sparsity; the makers' data sheets
    "H200": H200.bf16_flops,
    "H100": H100.bf16_flops,
    "A100": A100.bf16_flops,
    "L40S": 362e12,
    "V100": 125e12,
}
"""By a part of the name a GPU tells."""


def names() -> list[str]:
    """Every device, by file name."""
    return names_in(__name__)


def device(name: str, *, processes: int) -> Device:
    """A named device, among so many processes of a run; UserError names the known ones."""
    if not is_named(name, package=__name__):
        raise UserError(f"--device: given {name!r}, allowed: {', '.join(names())}")
    found: Device = module_named(name, package=__name__).device(processes=processes)
    return found
