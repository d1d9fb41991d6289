"""What a dataset is made of: text, or images of one shape. Imports nothing: the command line reads it too."""

from typing import Literal, NamedTuple

Kind = Literal["text", "images"]
NUM_CHANNELS = 3


class ImageShape(NamedTuple):
    """Pixels; three bytes each."""

    height: int
    width: int

    @property
    def num_bytes(self) -> int:
        """Bytes, and so tokens, of one image."""
        return self.height * self.width * NUM_CHANNELS

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"
