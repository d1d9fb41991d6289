"""What may stand in an #SBATCH line: one line of text that Slurm reads as it was meant."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints

MAX_CHARACTERS = 1024
"""Of one value: far above any site's, far below what a scheduler's buffers hold."""


def header_text(text: str) -> str:
    """The text itself; ValueError, with what is wrong, where it would end the line, or hold what no one sees."""
    if not text or text != text.strip():
        raise ValueError("allowed: one line, without spaces or line breaks around it")
    if not text.isprintable():
        place = next(index for index, character in enumerate(text) if not character.isprintable())
        raise ValueError(f"allowed: one line without control characters; character {place + 1} is {text[place]!a}")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"allowed: at most {MAX_CHARACTERS} characters, given {len(text)}")
    return text


def is_header_text(text: str) -> bool:
    """Whether a header line can hold it."""
    try:
        header_text(text)
    except ValueError:
        return False
    return True


HeaderText = Annotated[str, AfterValidator(header_text)]

Word = Annotated[str, StringConstraints(pattern=r"^\S+$"), AfterValidator(header_text)]
"""One word: it becomes the value of a scheduler option."""
