"""Options that several verbs take."""

from typing import Annotated

import typer


def _give(paths: list[str] | None) -> list[str] | None:
    """Before the verb begins: whatever it reads may name what these files define."""
    from hierlm.plugins import give_files

    give_files(paths or [])
    return paths


ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file of the run", show_default=False)]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="overrides, e.g. phases.0.sequence_length=512", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout, nothing else there")]
PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        callback=_give,
        help="Python file with an architecture, optimizer, ... of your own (docs/plugins.md); may be given again",
        show_default=False,
    ),
]
