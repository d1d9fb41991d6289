"""One thing wrong with a config, and how a line about it is worded."""

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Problem:
    """What is wrong at one dotted path; `involves` are the other paths the judgement rests on.

    `spares_records`: the rule is younger than runs that break it, and those must stay readable.
    """

    path: str
    text: str
    involves: tuple[str, ...] = ()
    spares_records: bool = False

    def concerns(self, path: str) -> bool:
        """Whether the judgement rests on `path`, on something inside it, or on what it is inside of."""
        return any(_overlap(own, path) for own in (self.path, *self.involves))


def given(value: Any) -> str:
    """A value as the user may have written it, on one line, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def nearest(word: object, names: Iterable[str]) -> str | None:
    """The valid name most like `word`, if any is like it."""
    by_lower = {name.lower(): name for name in names}
    found = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


def sentence(what: str, *, allowed: str, near: str | None = None) -> str:
    """`what, allowed: ..., nearest: ...`."""
    return f"{what}, allowed: {allowed}" + (f", nearest: {near}" if near else "")


def _overlap(a: str, b: str) -> bool:
    return a == b or a.startswith(f"{b}.") or b.startswith(f"{a}.")
