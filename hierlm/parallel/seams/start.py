"""All lists together: what a start looks for."""

from collections.abc import Iterator
from inspect import isclass

from hierlm.parallel.seams import (
    deepspeed_names,
    engine,
    megatron_names,
    optimizers,
    parameters,
    questions,
    slices,
    stages,
    torch_private,
)
from hierlm.parallel.seams.handle import Handle
from hierlm.parallel.seams.seam import Seam, has, refuse, thing_at
from hierlm.parallel.seams.spoken import SPOKEN, problems_of_spoken

LISTS = (engine, optimizers, parameters, slices, stages, torch_private)
"""Where handles are."""


def refuse_missing() -> None:
    """UserError with one line for each name that can be looked for before there is an engine and is not there.

    What constructors put on objects is looked for by `start_engine`, and where a sliced layer is made.
    """
    invalid = optimizers.INVALID_NORM
    refuse(
        [
            *deepspeed_names.NAMES.problems(),
            *megatron_names.NAMES.problems(),
            *torch_private.problems_of_torch(),
            *(problem for handle in handles() for problem in handle.problems_of_class()),
            *([] if not invalid.applies or has(thing_at(invalid.owner), invalid.name) else [invalid.problem()]),
            *problems_of_spoken(),
            *questions.problems_of_questions(),
        ]
    )


def handles() -> Iterator[type[Handle]]:
    """All of them, each beside the others of its file."""
    for module in LISTS:
        kinds = (thing for thing in vars(module).values() if isinstance(thing, type) and issubclass(thing, Handle))
        yield from (kind for kind in kinds if kind.__module__ == module.__name__)


def every_seam() -> Iterator[Seam]:
    """The whole list, for whatever release; a class that is imported and read may stand in it twice."""
    for names in (deepspeed_names.NAMES, megatron_names.NAMES, torch_private.NAMES):
        yield from names.seams
    yield from (*torch_private.COMPILER.seams, *deepspeed_names.OPS.seams)
    yield from dict.fromkeys(field.seam for handle in handles() for field in handle.attributes())
    yield from (handle.class_seam() for handle in handles() if isclass(thing_at(handle.of)))
    yield from (optimizers.INVALID_NORM, *SPOKEN, *questions.IS_INVALID, questions.CLIP)
