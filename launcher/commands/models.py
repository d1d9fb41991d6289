"""the architectures, their papers and config fields; optimizers and schedules"""

from typing import Annotated

import typer

from launcher.options import JsonOption

EXAMPLE = "hierlm models hourglass"


def command(
    arch: Annotated[str | None, typer.Argument(metavar="ARCH", help="one of them, with its fields")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the architectures; for one of them its config fields."""
    from hierlm import models
    from hierlm.errors import UserError
    from launcher.catalogue import choices, describe, listing
    from launcher.verb import print_json

    if arch is not None and arch not in models.names():
        raise UserError(f"{arch}: no such architecture, allowed: {', '.join(models.names())}")
    described = [describe(name) for name in ([arch] if arch else models.names())]
    if as_json:
        print_json(described)
    elif arch is not None:
        print(listing(described, with_fields=True))
    else:
        print(listing(described, with_fields=False), *choices(), sep="\n\n")
