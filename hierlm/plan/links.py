"""How fast the ranks of one axis of a layout exchange bytes: through their node, or through the ports that join nodes.

A ring over several nodes enters and leaves every node once, and collectives lay one ring through each port: a node's
ports all carry, so that peers that fill a node of eight ports get eight of them, not one. Peers that are one to a node
get their device's share, for the groups of its neighbours are under way at the same time (tensor-parallel neighbours
each have data-parallel peers of their own).
"""

from hierlm.parallel.degrees import Degrees
from hierlm.plan.device import LINK_SHARE, Device


class Links:
    """Bytes per second one way between the peers of each axis; neighbours on the tensor axis are next to each other."""

    def __init__(self, degrees: Degrees, device: Device) -> None:
        self._device = device
        tensor, data = degrees["tensor"], degrees["data"]
        self.tensor = self.ring(members=tensor, stride=1)
        self.data = self.ring(members=data, stride=tensor)
        self.pipeline = self._neighbours(stride=tensor * data, world_size=degrees.world_size)

    def ring(self, *, members: int, stride: int) -> float:
        """Of a collective over `members` ranks, `stride` ranks from one to the next."""
        device = self._device
        if members * stride <= device.per_node:
            return LINK_SHARE * device.node_link
        together = max(1, device.per_node // stride)  # of the group in one node
        ports = device.fabric_link * device.node_ports * together / device.per_node
        return LINK_SHARE * (min(device.node_link, ports) if together > 1 else ports)

    def _neighbours(self, *, stride: int, world_size: int) -> float:
        """Of a message from one rank to another: through one port, or a share of it where there are fewer than ranks
        that send."""
        device = self._device
        if world_size <= device.per_node:
            return LINK_SHARE * device.node_link
        senders = min(stride, device.per_node)
        return LINK_SHARE * device.fabric_link * min(1.0, device.node_ports / senders)
