"""checkpoints of a run: list, inspect, verify, digest, export, reshape"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hierlm.exit_codes import FAILED
from launcher.options import JsonOption, PluginOption
from launcher.verb import json_on_stdout

if TYPE_CHECKING:
    from hierlm.checkpoint.find import CheckpointRef, Listed
    from hierlm.run_dir import RunDir

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help=__doc__,
    epilog="Example: hierlm checkpoint list runs/demo-hourglass",
)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="directory or name of a run", show_default=False)]
StepOption = Annotated[
    int | None, typer.Option("--checkpoint", metavar="STEP", help="default: the newest good one", show_default=False)
]
DegreeOption = Annotated[int | None, typer.Option(metavar="N", min=1, show_default=False)]
StageOption = Annotated[int | None, typer.Option(metavar="N", min=0, max=3, show_default=False)]


@app.command("list", epilog="Example: hierlm checkpoint list runs/demo-hourglass")
def list_(run: RunArgument, as_json: JsonOption = False) -> None:
    """All checkpoints, oldest first; only their manifests are read."""
    with json_on_stdout(as_json) as print_document:
        from hierlm.checkpoint.find import list_checkpoints

        run_dir = _run_dir(run)
        rows = [_row(listed) for listed in list_checkpoints(run_dir.checkpoints)]
        if as_json:
            print_document(rows)
        for row in [] if as_json else rows:
            print(_line(row))
        if not rows and not as_json:
            print(f"{run_dir.path}: no checkpoint yet")


@app.command(epilog="Example: hierlm checkpoint inspect runs/demo-hourglass --checkpoint 50")
def inspect(run: RunArgument, step: StepOption = None, as_json: JsonOption = False) -> None:
    """What a checkpoint says of itself: when, where in the run, layout, versions, files."""
    with json_on_stdout(as_json) as print_document:
        ref = _checkpoint(run, step)
        document = {
            "path": str(ref.path),
            "size_bytes": ref.manifest.size_bytes,
            **ref.manifest.model_dump(mode="json"),
        }
        if as_json:
            print_document(document)
        else:
            _print_inspection(document, layout=str(ref.manifest.layout))


@app.command(epilog="Example: hierlm checkpoint verify runs/demo-hourglass")
def verify(run: RunArgument, step: StepOption = None, as_json: JsonOption = False) -> int:
    """Read every byte and compare it with the checksums; exit code 1 if any checkpoint is damaged."""
    with json_on_stdout(as_json) as print_document:
        from hierlm.checkpoint.find import verify as problems_of

        results = [
            {"step": listed.step, "path": str(listed.path), "problems": problems_of(listed)}
            for listed in _claims(run, step)
        ]
        if as_json:
            print_document([{**result, "good": not result["problems"]} for result in results])
        else:
            _print_verification(results)
    return FAILED if any(result["problems"] for result in results) else 0


@app.command(epilog="Example: hierlm checkpoint digest runs/demo-hourglass --json")
def digest(run: RunArgument, step: StepOption = None, as_json: JsonOption = False) -> None:
    """Checksums of weights and optimizer that do not depend on the layout that saved them."""
    with json_on_stdout(as_json) as print_document:
        from hierlm.checkpoint.digest import digest as digest_of
        from hierlm.checkpoint.layout import ENGINE

        ref = _checkpoint(run, step)
        document = {"step": ref.step, **digest_of(ref.path / ENGINE)}
        if as_json:
            print_document(document)
        else:
            print("\n".join(f"{key}  {value}" for key, value in document.items()))


@app.command(epilog="Example: hierlm checkpoint export runs/demo-hourglass --output exported/hourglass")
def export(
    run: RunArgument,
    *,
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="new or empty directory")],
    step: StepOption = None,
    family: Annotated[str | None, typer.Option(metavar="NAME", help="as transformers has it: llama, gpt2")] = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """One model.safetensors (fp32) and a config.yaml, for `hierlm.models.load`.

    With --family its names and a config.json, for transformers; a model that the family cannot represent is refused.
    """
    with json_on_stdout(as_json) as print_document:
        from hierlm.checkpoint.export import export as export_to
        from hierlm.checkpoint.family_export import export_as
        from hierlm.checkpoint.layout import ENGINE

        ref = _checkpoint(run, step)
        write = export_to if family is None else partial(export_as, family)
        counts = write(ref.path / ENGINE, run_config=_run_dir(run).config, output=output)
        if as_json:
            print_document({"step": ref.step, "output": str(output), **counts})
        else:
            size = counts["bytes"] / 2**20
            print(f"{output}: step {ref.step}, {counts['parameters']:,} parameters, {size:,.1f} MiB")


@app.command(epilog="Example: hierlm checkpoint reshape runs/demo-hourglass --data-parallel-degree 4 --zero-stage 3")
def reshape(
    run: RunArgument,
    *,
    data_parallel_degree: DegreeOption = None,
    tensor_parallel_degree: DegreeOption = None,
    pipeline_parallel_degree: DegreeOption = None,
    zero_stage: StageOption = None,
    step: StepOption = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Convert a checkpoint for another layout now, on this machine and without a GPU, so that the job need not.

    What is not given stays as the run has it. The run goes on with `hierlm train` or `submit` and the same layout.
    """
    with json_on_stdout(as_json) as print_document:
        degrees = {
            "data_parallel_degree": data_parallel_degree,
            "tensor_parallel_degree": tensor_parallel_degree,
            "pipeline_parallel_degree": pipeline_parallel_degree,
            "zero_stage": zero_stage,
        }
        document = _reshape(run, step, {name: value for name, value in degrees.items() if value is not None})
        if as_json:
            print_document(document)
        elif document["converted"] is None:
            print(f"step {document['step']} was saved with {document['to']}: nothing has to be converted")
        else:
            print(f"step {document['step']}: {document['from']} -> {document['to']}: {document['converted']}")


def _reshape(run: Path, step: int | None, degrees: dict[str, int]) -> dict[str, Any]:
    from hierlm.checkpoint.manifest import Layout
    from hierlm.config.load import load_config
    from hierlm.errors import UserError
    from hierlm.run_dir import ways_out

    if not degrees:
        raise UserError(
            "no layout given; give at least one of --data-parallel-degree, --tensor-parallel-degree, "
            "--pipeline-parallel-degree, --zero-stage"
        )
    if problems := ways_out(_run_dir(run)):
        raise UserError(problems)
    words = [f"parallel.{name}={value}" for name, value in degrees.items()]
    wanted = Layout.of(load_config(_run_dir(run).config, words).parallel)  # before any work
    ref = _checkpoint(run, step)
    converted = None if ref.manifest.layout == wanted else str(_converted(ref))
    return {"step": ref.step, "from": str(ref.manifest.layout), "to": str(wanted), "converted": converted}


def _converted(ref: "CheckpointRef") -> Path:
    from rich.console import Console
    from rich.progress import Progress

    from hierlm.checkpoint.team import TeamError
    from hierlm.checkpoint.universal import universal_of
    from hierlm.errors import UserError

    console = Console(stderr=True)
    with Progress(console=console) as bar:
        task = bar.add_task(f"converting step {ref.step}")

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        try:
            return universal_of(ref, progress=progress, report=console.print)
        except TeamError as failure:
            raise UserError(f"{ref.path}: cannot be converted ({failure})") from None


def _run_dir(run: Path) -> "RunDir":
    from launcher.runs.view import find_run

    return find_run(run)


def _checkpoint(run: Path, step: int | None) -> "CheckpointRef":
    from hierlm.checkpoint.find import checkpoint_at

    return checkpoint_at(_run_dir(run).checkpoints, step)


def _claims(run: Path, step: int | None) -> list["Listed"]:
    """All checkpoints, or the one of a step."""
    from hierlm.checkpoint.find import list_checkpoints
    from hierlm.errors import UserError

    found = list_checkpoints(_run_dir(run).checkpoints)
    chosen = [listed for listed in found if step in (None, listed.step)]
    if step is not None and not chosen:
        there = ", ".join(str(listed.step) for listed in found) or "none"
        raise UserError(f"{run}: no checkpoint of step {step}; there are: {there}")
    return chosen


def _row(listed: "Listed") -> dict[str, Any]:
    row: dict[str, Any] = {"step": listed.step, "path": str(listed.path), "problem": listed.problem}
    if listed.manifest is not None:
        kept = ("phase", "tokens_seen", "why", "layout", "precision", "save_seconds", "written_at")
        row |= listed.manifest.model_dump(mode="json", include=set(kept))
        row |= {"size_bytes": listed.manifest.size_bytes}
    return row


def _line(row: dict[str, Any]) -> str:
    if row["problem"]:
        return f"step {row['step']:>8} | damaged: {row['problem']}"
    return (
        f"step {row['step']:>8} | {row['phase']} | {row['tokens_seen']:,} tokens | {row['why']} | "
        f"{row['size_bytes'] / 2**20:,.1f} MiB | {row['written_at']}"
    )


def _print_inspection(document: dict[str, Any], *, layout: str) -> None:
    files = document.pop("files")
    for key, value in {**document, "layout": layout}.items():
        shown = ", ".join(f"{name} {number}" for name, number in value.items()) if isinstance(value, dict) else value
        print(f"{key:<20}{shown}")
    for name, record in files.items():
        print(f"{'file':<20}{name}  {record['size_bytes']:,} bytes  {record['sha256'][:16]}")


def _print_verification(results: list[dict[str, Any]]) -> None:
    for result in results:
        for problem in result["problems"]:
            print(f"step {result['step']}: {problem}")
        if not result["problems"]:
            print(f"step {result['step']}: good")
    if not results:
        print("no checkpoint yet")
