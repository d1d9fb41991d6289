"""The console script `hierlm`: finds the verb and runs it.

The list of verbs is read from the docstrings in launcher/commands without importing anything, so that
`hierlm --help` answers at once.
"""

import ast
import difflib
import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hierlm import outlets
from hierlm.errors import UserError
from launcher.verb import exit_code_of

COMMANDS = Path(__file__).parent / "commands"

ORDER = (
    "data", "train", "submit", "status", "logs", "cancel", "plan", "eval", "generate", "compare", "report", "track",
    "checkpoint", "models", "doctor",
)  # fmt: skip
"""Of the help text; a verb that is not named comes last."""

HEADER = """\
Usage: hierlm VERB [ARGUMENTS]

Train hierarchical and memory-augmented language models, here or on a Slurm cluster.
"""


def main() -> None:
    """Entry point. Exit codes: 0 success, 1 failed, 2 wrong input, 85 stopped early and resumable,
    86 another attempt has taken over, 130 interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a file's name may be no UTF-8
    outlets.stand_in_for_closed()
    sys.stderr = outlets.Outlet(sys.stderr)  # type: ignore[assignment]  # a complaint nobody hears is no error
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        return exit_code_of(lambda: print(help_text()), verb="hierlm")
    if arguments[0] == "--version":
        return exit_code_of(lambda: print(_version()), verb="hierlm")
    name, options = arguments[0], list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    is_known, as_json = name in verbs(), "--json" in options
    return exit_code_of(
        lambda: _invoke(name, arguments[1:]) if is_known else _refuse(name),
        verb=f"hierlm {name}" if is_known else "hierlm",
        as_json=as_json,
    )


def verbs() -> list[str]:
    """The verbs there are, in the order of the help text: one file each in launcher/commands."""
    found = [path.stem.replace("_", "-") for path in COMMANDS.glob("*.py") if not path.stem.startswith("_")]
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def help_text() -> str:
    """The verbs with the first line of their file's docstring."""
    names = verbs()
    width = max(map(len, names), default=0)
    lines = [f"  {name:<{width}}  {_summary(name)}" for name in names]
    return "\n".join([HEADER, "Verbs:", *lines, "", "`hierlm VERB --help` shows the options and an example."])


def load(name: str) -> Any:
    """The typer app of a verb: its file's `app`, or one made of its function `command` and its line `EXAMPLE`."""
    import typer

    module: ModuleType = importlib.import_module(f"launcher.commands.{name.replace('-', '_')}")
    if hasattr(module, "app"):
        return module.app
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(epilog=f"Example: {module.EXAMPLE}" if hasattr(module, "EXAMPLE") else None)(module.command)
    return app


def _invoke(name: str, arguments: Sequence[str]) -> object:
    import typer

    command = typer.main.get_command(load(name))
    return command.main(args=list(arguments), prog_name=f"hierlm {name}", standalone_mode=False)


def _summary(name: str) -> str:
    tree = ast.parse((COMMANDS / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def _refuse(name: str) -> None:
    names = verbs()
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    what = "no such option" if name.startswith("-") else "no such verb"
    raise UserError(f"{what}: {name}, allowed: {', '.join(names)}" + (f", nearest: {near[0]}" if near else ""))


def _version() -> str:
    from importlib.metadata import version

    return f"hierlm {version('hierlm')}"
