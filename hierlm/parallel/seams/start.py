"""All lists together: what a start looks for."""

from collections.abc import Iterator

from hierlm.parallel.seams import engine, names, optimizers, parameters, slices, stages, torch_private
from hierlm.parallel.seams.handle import all_handles
from hierlm.parallel.seams.seam import Seam, has, refuse, thing_at
from hierlm.parallel.seams.spoken import SPOKEN, problems_of_spoken

LISTS = (engine, optimizers, parameters, slices, stages, torch_private)
"""Where handles are; importing them is what makes them known."""


def refuse_missing() -> None:
    """UserError with one line for each name that can be looked for before there is an engine and is not there.

    What constructors put on objects is looked for by `start_engine`, and where a sliced layer is made.
    """
    invalid = optimizers.INVALID_NORM
    refuse(
        [
            *names.NAMES.problems(),
            *torch_private.problems_of_torch(),
            *(problem for handle in all_handles() for problem in handle.problems_of_class()),
            *([] if not invalid.applies or has(thing_at(invalid.owner), invalid.name) else [invalid.problem()]),
            *problems_of_spoken(),
        ]
    )


def every_seam() -> Iterator[Seam]:
    """The whole list, for whatever release; what handles are on is not repeated."""
    yield from (*names.NAMES.seams, *torch_private.NAMES.seams, *torch_private.COMPILER.seams, *names.OPS.seams)
    yield from dict.fromkeys(field.seam for handle in all_handles() for field in handle.attributes())
    yield from (optimizers.INVALID_NORM, *SPOKEN)
