"""What was met in the input that a user should know of: counts, and where it was first seen."""

import re
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.masking import masked

MAX_EXAMPLES = 5  # of each kind
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def printable(name: str) -> str:
    """A file's name as one line of text that every stream can carry.

    A byte that is no UTF-8, say ff, is written as \\udcff, and a line end or another control character as \\n or \\x1b.
    """
    text = name.encode("utf-8", "backslashreplace").decode()
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@dataclass
class Report:
    """Counts by kind, with the first places of each."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, where: str, *, count: int = 1) -> None:
        """Note `count` occurrences of `kind`, the first of them at `where` (file and position, secrets masked)."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        places = self.examples.setdefault(kind, [])
        if len(places) < MAX_EXAMPLES:
            places.append(masked(printable(where)))

    def take_over(self, other: "Report") -> None:
        """Add all that `other` has met."""
        for kind, places in other.examples.items():
            self.counts[kind] = self.counts.get(kind, 0) + other.counts[kind]
            self.examples[kind] = [*self.examples.get(kind, []), *places][:MAX_EXAMPLES]

    @property
    def record(self) -> dict[str, Any]:
        """What dataset.json keeps: {kind: {count, first}}."""
        return {kind: {"count": count, "first": self.examples[kind]} for kind, count in sorted(self.counts.items())}
