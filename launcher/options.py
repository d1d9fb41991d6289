"""Options that several verbs take."""

from typing import Annotated

import typer

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file of the run", show_default=False)]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="overrides, e.g. phases.0.sequence_length=512", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout, nothing else there")]
