"""The ranks that save, verify or convert together, as two facts and one function; how they talk is the caller's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """`exchange(x)` is called by every rank and returns what all of them passed, in rank order, on every rank."""

    rank: int
    size: int
    exchange: Callable[[Any], list[Any]]

    @property
    def is_first(self) -> bool:
        """Whether this rank does what only one may do."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's part of work that any rank could do."""
        return items[self.rank :: self.size]

    def together(self, action: Callable[[], T]) -> list[T]:
        """Run the action on every rank; all results on every rank, or TeamError on every rank if one of them raised."""
        result: Any = None
        problem: str | None = None
        try:
            result = action()
        except Exception as error:  # whatever it is, the other ranks must hear of it, or they wait for ever
            problem = f"rank {self.rank}: " + " ".join(f"{type(error).__name__}: {error}".split())
        answers = self.exchange((result, problem))
        problems = [problem for _, problem in answers if problem]
        if problems:
            others = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
            raise TeamError(problems[0] + others)
        return [result for result, _ in answers]

    def first_only(self, action: Callable[[], T]) -> T:
        """Run the action on the first rank; its result on every rank, or TeamError on every rank."""
        result: T = self.together(lambda: action() if self.is_first else None)[0]  # type: ignore[assignment]
        return result


class TeamError(RuntimeError):
    """At least one rank has failed; the same one line on every rank."""


ALONE = Team(rank=0, size=1, exchange=lambda value: [value])
"""One process on its own."""
