"""The errors that are told in one line."""

from collections.abc import Sequence

from data_pipeline.masking import masked


class UserError(ValueError):
    """Wrong input. Each problem is one line: what, where, what was given, what is allowed, how to mend. Exit code 2.

    Secrets in what was given are masked: errors are logged.
    """

    is_of_one_rank = False
    """Whether the other ranks may know nothing of it, so that whoever meets it says it."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = tuple(map(masked, (problems,) if isinstance(problems, str) else problems))
        super().__init__("\n".join(self.problems))


class NoAnswerError(UserError):
    """Somebody who had to be asked does not answer, so that nothing is known, right input or not. Exit code 1."""


class LostRunError(RuntimeError):
    """Training cannot go on, for a reason that all ranks know and tell alike. One line, exit code 1."""
