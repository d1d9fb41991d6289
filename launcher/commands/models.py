"""the architectures, their papers and config fields, optimizers, schedules; does one of your own keep the contract"""

from pathlib import Path
from typing import Annotated

import typer

from hierlm.exit_codes import FAILED
from launcher.options import JsonOption, PluginOption

EXAMPLE = "hierlm models hourglass; hierlm models test running_mean --plugin running_mean.py"


def command(
    arch: Annotated[
        str | None, typer.Argument(metavar="ARCH", help="one of them, with its fields; or `test`", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="what `test` is to test", show_default=False)
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="what to build for `test`; default: SMALL of the file", show_default=False),
    ] = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> int:
    """List the architectures; for one of them its config fields.

    `hierlm models test NAME` checks one as those of hierlm are checked: causality, memory, recompute, generation,
    gradients, and its tensor plan and layer list on two processes. Exit code 1 when something does not hold.
    """
    from hierlm import models
    from hierlm.errors import UserError

    if arch == "test" and name is not None:
        return _test(name, config=config, as_json=as_json)
    if name is not None or config is not None:
        raise UserError("a second name and --config go with `hierlm models test NAME` alone")
    if arch is not None and not models.is_known(arch):
        raise UserError(f"{arch}: no such architecture, allowed: {', '.join(models.names())}")
    _list([arch] if arch else models.names(), with_fields=arch is not None, as_json=as_json)
    return 0


def _list(names: list[str], *, with_fields: bool, as_json: bool) -> None:
    from launcher.catalogue import choices, describe, listing
    from launcher.verb import print_json

    described = [describe(name) for name in names]
    if as_json:
        print_json(described)
    else:
        print(listing(described, with_fields=with_fields), *([] if with_fields else choices()), sep="\n\n")


def _test(name: str, *, config: Path | None, as_json: bool) -> int:
    from launcher.verb import json_on_stdout

    with json_on_stdout(as_json) as print_document:
        from hierlm.contract.checks import outcomes
        from launcher.catalogue import small_case

        found = []
        for outcome in outcomes(small_case(name, config=config)):
            found.append(outcome)
            why = f": {outcome.why}" if outcome.why else ""
            print(f"{outcome.state:<8}  {outcome.name}{why}", flush=True)
        if as_json:
            print_document([outcome._asdict() for outcome in found])
        num_failed = sum(outcome.state == "failed" for outcome in found)
        print(f"{name}: {num_failed} of {len(found)} checks failed" if num_failed else f"{name}: keeps the contract")
    return FAILED if num_failed else 0
