"""Devices and fabrics as files: those of configs/devices, and a user's own. Torch-free.

What every field means, with units and sources, stands in configs/devices/a100.yaml.
"""

from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt

from hierlm.config.file import read_file
from hierlm.plan.device import GPU_KERNEL_SECONDS, Device
from hierlm.strict import Strict

SHIPPED = Path(__file__).parents[2] / "configs" / "devices"
"""Of the checkout that runs."""

SUFFIXES = (".yaml", ".yml")


class Node(Strict):
    """What is joined faster than the fabric."""

    devices: PositiveInt
    link: PositiveFloat = Field(description="bytes/s one way, of a device to peers in its node")


class Fabric(Strict):
    """What joins the nodes."""

    ports: PositiveInt = Field(description="of a node")
    port: PositiveFloat = Field(description="bytes/s one way")


class DeviceFile(Strict):
    """One file. Rates are per second and one way."""

    name: str
    told_as: str | None = Field(default=None, description="part of the name by which the driver tells it")
    bf16_flops: PositiveFloat = Field(description="dense")
    fp32_flops: PositiveFloat = Field(description="of products in full fp32, without TF32")
    memory_bytes: PositiveFloat
    memory_bandwidth: PositiveFloat
    processors: PositiveInt = Field(default=1, description="that share out the tiles of a product (SMs)")
    kernel_seconds: PositiveFloat = Field(
        default=GPU_KERNEL_SECONDS, description="of an operation started from Python, beside its work"
    )
    is_gpu: bool = True
    node: Node
    fabric: Fabric
    source: str = Field(default="a file of your own", description="where the figures come from, in a line")

    def device(self) -> Device:
        """As the planner wants it."""
        return Device(
            name=self.name,
            bf16_flops=self.bf16_flops,
            fp32_flops=self.fp32_flops,
            memory_bytes=int(self.memory_bytes),
            memory_bandwidth=self.memory_bandwidth,
            kernel_seconds=self.kernel_seconds,
            node_link=self.node.link,
            fabric_link=self.fabric.port,
            per_node=self.node.devices,
            is_gpu=self.is_gpu,
            source=self.source,
            ports=self.fabric.ports,
            processors=self.processors,
        )


def read_device(path: str | Path) -> DeviceFile:
    """A device file; UserError lists everything wrong with it."""
    return read_file(DeviceFile, path)


def shipped(name: str) -> Device:
    """One of configs/devices."""
    return read_device(SHIPPED / f"{name}.yaml").device()


def shipped_names() -> list[str]:
    """Of configs/devices; none where hierlm runs without its checkout."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def is_file_name(text: str) -> bool:
    """Whether a user means a file: names have no ending and no folder."""
    return text.endswith(SUFFIXES) or "/" in text
