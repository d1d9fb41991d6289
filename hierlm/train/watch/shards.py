"""The shards of a run, checked by one process of each node; what one of them finds, all ranks are told."""

from collections.abc import Callable, Iterable

import torch

from data_pipeline.check.shards import ShardCheck
from data_pipeline.config import DataConfig
from data_pipeline.errors import DataError
from hierlm.checkpoint.team import Team
from hierlm.parallel.process import ProcessInfo
from hierlm.train.loop import Completed
from hierlm.train.record.console import Console
from hierlm.train.watch.signals import StopRequest

SECONDS_BETWEEN_ANSWERS = 20.0
SECONDS_AT_THE_END = 30.0
MOST_PROBLEMS = 1000


class Shards:
    """On every rank; only one of each node reads."""

    def __init__(self, data: DataConfig, *, process: ProcessInfo, team: Team) -> None:
        self._data, self._team = data, team
        self._reads = process.local_rank == 0 and data.verify != "never"
        self._check: ShardCheck | None = None
        self._place = (0, 1)

    def look(self, stop: StopRequest, *, say: Callable[[str], None]) -> None:
        """Before the first step: DataError on all ranks when a shard is missing, of another size or changed.

        With `verify: before` all checksums are compared here, unless a stop is requested.
        """
        told = self._team.gather(self._looked())
        _raise_any(self._team.tell(_each_once(told)))
        readers = [rank for rank, problems in enumerate(told) if problems is not None]
        places = {rank: (place, len(readers)) for place, rank in enumerate(readers)}
        self._place = self._team.scatter([places.get(rank, (0, 1)) for rank in range(len(told))])
        if self._data.verify == "before":
            say("comparing all shards with their checksums before the first step (data.verify)")
            self._read_all(stop)

    def go_on_beside(self, stop: StopRequest) -> None:
        """Read what is left beside training; `stop` ends it when something is found."""
        stop.watch_data(self._damage)
        if self._check is not None:
            share, num_shares = self._place
            self._check.start(share=share, num_shares=num_shares)

    def finish(self) -> str | None:
        """Wait until all is read, but not for ever: then a line says what is not."""
        if self._check is None or self._check.finish(seconds=SECONDS_AT_THE_END):
            return None
        return (
            f"{self._check.num_left} shards have not been compared with their checksums: the next start goes on with "
            "them (data.verify=before compares all first; so does `hierlm data verify`)"
        )

    def close(self) -> None:
        """Stop reading."""
        if self._check is not None:
            self._check.close()

    def _damage(self) -> str | None:
        if self._check is None or not self._check.problems:
            return None
        return f"{self._check.problems[0]}; checkpoints of this attempt may have learned from it"

    def _looked(self) -> tuple[str, ...] | None:
        """Problems; None on a rank that does not read."""
        if not self._reads:
            return None
        try:
            self._check = ShardCheck([source.path for source in self._data.weighted_sources])
            self._check.look()
        except DataError as error:  # the others wait for an answer
            return error.problems
        return self._check.problems

    def _read_all(self, stop: StopRequest) -> None:
        """Until every node has read what it has to; all answer now and then, as none may wait for ever."""
        if self._check is not None:
            share, num_shares = self._place
            self._check.start(share=share, num_shares=num_shares)
        while True:
            is_done = self._check is None or self._check.finish(seconds=SECONDS_BETWEEN_ANSWERS)
            told = self._team.gather((is_done, stop.seen_here, () if self._check is None else self._check.problems))
            is_over = all(is_done for is_done, *_ in told) or any(is_asked for _, is_asked, _ in told)
            problems, is_over = self._team.tell((_each_once(problems for *_, problems in told), is_over))
            _raise_any(problems)
            if is_over:
                return


def _each_once(told: Iterable[tuple[str, ...] | None]) -> tuple[str, ...]:
    """Of a shared file system every node says the same; of very many problems the first are told, and their number."""
    problems = list(dict.fromkeys(problem for some in told for problem in some or ()))
    more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
    return (*problems[:MOST_PROBLEMS], *more)


def _raise_any(problems: tuple[str, ...]) -> None:
    if problems:
        raise DataError(problems)


class ShardsHook:
    """Whether the last step learned from a damaged shard is known before its state is evaluated and saved."""

    def __init__(self, shards: Shards, *, stop: StopRequest, console: Console, device: torch.device) -> None:
        self._shards, self._stop, self._console, self._device = shards, stop, console, device

    def before_step(self) -> None:
        """The loop has just asked whether to stop, which tells of damage too."""

    def after_step(self, completed: Completed) -> None:
        if completed.is_last:
            unread = self._shards.finish()
            if unread is not None:
                self._console.say_from_any_rank(unread)
            self._stop.agreed(self._device)  # of a request to stop, the loop is told as well

    def on_stop(self, *, step: int) -> None:
        """What has not been read is read by the next attempt."""
