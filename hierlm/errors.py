"""The one error that is the user's to mend."""

from collections.abc import Sequence


class UserError(ValueError):
    """Wrong input. Each problem is one line: what, where, what was given, what is allowed, how to mend. Exit code 2."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))
