"""When the gradients of which parameters are sent: a bucket leaves when its last gradient of a step is there.

So the exchange goes on beside the backward pass that is still to be made (Li et al. 2020, 2006.15704, section 3.2.3).
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from hierlm.parallel.scatter import Scatter

MOST_UNDER_WAY = 2
"""Buckets: what they hold beside the gradients is that much and no more, and a network is busy with one already."""


class GradientBuckets:
    """The buckets of one rank. They leave in one order on all ranks, whichever is full first on each."""

    def __init__(
        self,
        buckets: Sequence[Sequence[nn.Parameter]],
        *,
        places: Mapping[nn.Parameter, int],
        send: Callable[[int], Scatter],
        receive: Callable[[int, Scatter], None],
    ) -> None:
        """`places`: where in the model's order a parameter stands; the last get their gradients first.

        `send` and `receive` are given the number of a bucket, each once a step.
        """
        self._bucket_of = {parameter: number for number, bucket in enumerate(buckets) for parameter in bucket}
        self._buckets, self._send, self._receive = [set(bucket) for bucket in buckets], send, receive
        first = [min(places[parameter] for parameter in bucket) for bucket in buckets]
        self._order = sorted(range(len(buckets)), key=lambda number: -first[number])
        self._begin_step()

    def arrived(self, parameter: nn.Parameter) -> None:
        """The last gradient that a parameter gets in this step is there."""
        self._missing[self._bucket_of[parameter]].discard(parameter)
        while self._left and not self._missing[self._left[0]]:
            self._send_next()

    def finish(self) -> None:
        """Send what is left, gradients or none, and receive all."""
        while self._left:
            self._send_next()
        while self._under_way:
            self._receive_oldest()
        self._begin_step()

    def _begin_step(self) -> None:
        self._missing = [set(bucket) for bucket in self._buckets]
        self._left = deque(self._order)
        self._under_way = deque[tuple[int, Scatter]]()

    def _send_next(self) -> None:
        if len(self._under_way) == MOST_UNDER_WAY:
            self._receive_oldest()
        number = self._left.popleft()
        self._under_way.append((number, self._send(number)))

    def _receive_oldest(self) -> None:
        number, scatter = self._under_way.popleft()
        self._receive(number, scatter)
