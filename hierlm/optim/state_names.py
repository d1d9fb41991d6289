"""What an optimizer's state is called: all that files, digests and other layouts need to know of it. Torch-free."""

from typing import Any, Self

from hierlm.optim import optimizers
from hierlm.strict import Strict


class StateNames(Strict):
    """Of one optimizer; a checkpoint holds it, so that it is read by what it says and not by what the config says."""

    name: str
    states: tuple[str, ...]
    counts: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({', '.join((*self.states, *self.counts))})"

    @classmethod
    def of(cls, name: str) -> Self:
        """Of an optimizer by its file's name; ValueError names the known ones."""
        module = optimizers.optimizer(name)
        return cls(name=name, states=module.STATES, counts=module.COUNTS)

    @classmethod
    def recorded(cls, record: Any) -> Self:
        """What a checkpoint says, a mapping; one that says nothing is AdamW's: 0.1 had no other."""
        return cls.of("adamw") if record is None else cls.model_validate(record)
