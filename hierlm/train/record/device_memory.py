"""Peak bytes a rank holds on its device."""

import torch


class DeviceMemory:
    """On a GPU the allocator's peak. On a CPU the process's peak resident memory above what it held when this was made.

    Make it after the libraries are imported and before the model is built.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._baseline = 0 if self._cuda else _status_bytes("VmRSS")

    def peak_bytes(self) -> int:
        """The highest value so far."""
        if self._cuda is not None:
            return int(torch.cuda.max_memory_allocated(self._cuda))
        return max(_status_bytes("VmHWM") - self._baseline, 0)


def _status_bytes(field: str) -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
