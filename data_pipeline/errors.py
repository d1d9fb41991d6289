"""The one error of this package that is the user's to mend."""

from collections.abc import Sequence

from data_pipeline.masking import masked


class DataError(ValueError):
    """Wrong or damaged input. Each problem is one line: what, where, what was found, how to mend. Exit code 2.

    Secrets in what was given are masked: errors are logged.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        given = (problems,) if isinstance(problems, str) else problems
        # names in a stranger's files may hold line ends, and what no terminal can print
        self.problems: tuple[str, ...] = tuple(
            masked(" ".join(problem.splitlines())).encode(errors="backslashreplace").decode() for problem in given
        )
        super().__init__("\n".join(self.problems))
