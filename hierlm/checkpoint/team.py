"""The ranks that save, verify or convert together, as two facts and three functions; how they talk is the caller's.

What one rank has for the others passes through the first one, and no rank is told what only another one needs: of N
ranks the first handles N messages, every other one as many as there are steps, however large N is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """Every rank calls each of the three at the same point.

    `gather(x)`: what all of them passed, in rank order, on the first rank; nothing elsewhere.
    `tell(x)`: what the first rank passed, on every rank.
    `scatter(xs)`: of what the first rank passed, one item for each rank, this rank's.
    """

    rank: int
    size: int
    gather: Callable[[Any], list[Any]]
    tell: Callable[[Any], Any]
    scatter: Callable[[Sequence[Any]], Any]

    @property
    def is_first(self) -> bool:
        """Whether this rank does what only one may do."""
        return self.rank == 0

    def dealt(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's part of the first rank's items, of work that any rank could do."""
        mine: Sequence[T] = self.scatter([items[rank :: self.size] for rank in range(self.size)] * self.is_first)
        return mine

    def collected(self, action: Callable[[], T]) -> list[T]:
        """Run the action on every rank; all results on the first, none elsewhere.

        TeamError on every rank if one of them raised.
        """
        result: Any = None
        problem: str | None = None
        try:
            result = action()
        except Exception as error:  # whatever it is, the other ranks must hear of it, or they wait for ever
            problem = f"rank {self.rank}: " + " ".join(f"{type(error).__name__}: {error}".split())
        answers = self.gather((result if problem is None else None, problem))
        problems = [problem for _, problem in answers if problem]
        others = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        if (told := self.tell(problems[0] + others if problems else None)) is not None:
            raise TeamError(told)
        return [result for result, _ in answers]

    def together(self, action: Callable[[], T]) -> T:
        """Run the action on every rank; its own result on each, or TeamError on every rank if one of them raised."""
        mine: list[T] = []
        self.collected(lambda: mine.append(action()))
        return mine[0]

    def first_only(self, action: Callable[[], T]) -> T:
        """Run the action on the first rank; its result, which is told, on every rank, or TeamError on every rank."""
        results = self.collected(lambda: action() if self.is_first else None)
        result: T = self.tell(results[0] if self.is_first else None)
        return result

    def first_word(self, word: T | None) -> T | None:
        """What the lowest rank that has something to say says, on every rank; None where none has."""
        said: T | None = self.tell(next((word for word in self.gather(word) if word is not None), None))
        return said


class TeamError(RuntimeError):
    """At least one rank has failed; the same one line on every rank."""


ALONE = Team(rank=0, size=1, gather=lambda item: [item], tell=lambda item: item, scatter=lambda items: items[0])
"""One process on its own."""
