"""text or images to prepared datasets: prepare, stdlib, verify, inspect"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_pipeline.image_shape import Kind
from data_pipeline.prepare.documents import Broken, DocumentMode, DocumentOptions
from data_pipeline.prepare.filters import Deduplicate, Filters
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.request import Request, TokenizerKind
from data_pipeline.prepare.sources import find_files
from data_pipeline.prepare.splits import parse_splits
from data_pipeline.prepare.text_policy import BadText, LongDocuments, TextPolicy
from data_pipeline.prepare.tokenizer_training import MAX_VOCAB_SIZE, ModelType
from hierlm.exit_codes import FAILED
from launcher.options import JsonOption
from launcher.verb import json_on_stdout

if TYPE_CHECKING:
    from data_pipeline.image_shape import ImageShape
    from data_pipeline.prepare.progress import Progress
    from data_pipeline.prepare.sources import SourceFile
    from launcher.verb import JsonPrinter

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help=__doc__,
    epilog="Example: hierlm data stdlib --output data/demo",
)


OutputOption = Annotated[Path, typer.Option("--output", metavar="DIR", help="folder of the dataset")]
TokenizerOption = Annotated[TokenizerKind, typer.Option(help="bytes needs no training")]
VocabSizeOption = Annotated[
    int, typer.Option(max=MAX_VOCAB_SIZE, help="tokens of a sentencepiece model that is trained here")
]
ModelTypeOption = Annotated[ModelType, typer.Option(help="kind of sentencepiece model that is trained here")]
TokenizerModelOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="an existing sentencepiece model or tokenizer.json")
]
LossyOption = Annotated[
    bool, typer.Option("--allow-lossy", help="take a tokenizer that changes text; bytes are those its tokens hold")
]
SplitsOption = Annotated[str, typer.Option(help="tails by share of the bytes, NAME=FILE, or none")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="encoding processes; never changes the output")]
ShardTokensOption = Annotated[int, typer.Option(min=1, help="tokens per shard")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="continue a preparation that was killed")]
DatasetArgument = Annotated[Path, typer.Argument(metavar="DIR", help="a prepared dataset")]


InputOption = Annotated[
    list[str], typer.Option("--input", metavar="PATH...", help="files, folders, globs, archives, addresses")
]
MoreInputs = Annotated[list[str] | None, typer.Argument(hidden=True)]
KindOption = Annotated[Kind, typer.Option(help="images: pictures or arrays, all of one shape, a document each")]
PartsOption = Annotated[int, typer.Option(min=1, max=1000, help="parts of whole files, to be prepared apart")]
PartOption = Annotated[int | None, typer.Option(min=0, help="prepare only this part, e.g. $SLURM_ARRAY_TASK_ID")]
PlanOption = Annotated[bool, typer.Option("--plan", help="only settle splits and tokenizer, before the parts")]
ClusterOption = Annotated[Path | None, typer.Option(metavar="FILE", help="through Slurm, the parts as an array job")]
DocumentsOption = Annotated[DocumentMode, typer.Option(help="what a document is; ends are kept beside the tokens")]
SeparatorOption = Annotated[str, typer.Option(metavar="TEXT", help="ends a document, stays in its text")]
FieldOption = Annotated[str, typer.Option(metavar="NAME", help="text field of a record; a.b leads inside")]
RecordEndOption = Annotated[str, typer.Option(metavar="TEXT", help="appended to the text of every record")]
BadTextOption = Annotated[BadText, typer.Option(help="bytes that are no UTF-8")]
BrokenOption = Annotated[Broken, typer.Option(help="archives and records that cannot be read")]
MaxBytesOption = Annotated[int | None, typer.Option(min=1, help="see --long-documents")]
LongOption = Annotated[LongDocuments, typer.Option(help="those above the limit")]
MinBytesOption = Annotated[int, typer.Option(min=0, help="leave out shorter documents")]
RepeatedOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="leave out documents with more of their bytes in repeated lines")
]
DenseOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="leave out documents that zlib packs below this share")
]
LooseOption = Annotated[
    float | None, typer.Option(min=0, max=2, help="leave out documents that zlib packs only above it")
]
DeduplicateOption = Annotated[Deduplicate, typer.Option(help="keep the first of equal or similar documents")]
ThresholdOption = Annotated[float, typer.Option(min=0.1, max=1, help="similarity of near duplicates")]


@app.command(epilog="Example: hierlm data prepare --input corpus.txt.gz --output data/corpus")
def prepare(
    *,
    inputs: InputOption,
    output: OutputOption,
    kind: KindOption = "text",
    more_inputs: MoreInputs = None,
    tokenizer: TokenizerOption = "bytes",
    vocab_size: VocabSizeOption = 8192,
    model_type: ModelTypeOption = "bpe",
    tokenizer_model: TokenizerModelOption = None,
    allow_lossy: LossyOption = False,
    splits: SplitsOption = "valid=0.05,test=0.05",
    workers: WorkersOption = None,
    shard_tokens: ShardTokensOption = 1 << 24,
    resume: ResumeOption = False,
    parts: PartsOption = 1,
    part: PartOption = None,
    plan: PlanOption = False,
    cluster: ClusterOption = None,
    documents: DocumentsOption = "auto",
    separator: SeparatorOption = "",
    field: FieldOption = "text",
    record_end: RecordEndOption = "",
    bad_text: BadTextOption = "keep",
    broken: BrokenOption = "fail",
    max_document_bytes: MaxBytesOption = None,
    long_documents: LongOption = "skip",
    min_document_bytes: MinBytesOption = 0,
    max_repeated_line_share: RepeatedOption = None,
    min_compressed_share: DenseOption = None,
    max_compressed_share: LooseOption = None,
    deduplicate: DeduplicateOption = "none",
    near_threshold: ThresholdOption = 0.8,
    as_json: JsonOption = False,
) -> None:
    """Text (plain, packed, archives, jsonl, csv, parquet) or images (png, npy, npz) to tokens in webdataset shards."""
    if cluster is not None:
        _submit(cluster, output=output, parts=parts, as_json=as_json)
        return
    given = (*inputs, *(more_inputs or ()))
    met = Report()
    files = tuple(find_files(given, report=met))
    limits = (min_document_bytes, max_repeated_line_share, min_compressed_share, max_compressed_share)
    request = Request(
        files=files,
        given=given,
        output=output,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        model_type=model_type,
        tokenizer_model=tokenizer_model,
        allow_lossy=allow_lossy,
        splits=parse_splits(splits),
        documents=DocumentOptions(documents, separator, field, record_end, broken, _image_shape(kind, files, broken)),
        policy=TextPolicy(bad_text, max_document_bytes, long_documents),
        filters=Filters(*limits, deduplicate=deduplicate, near_threshold=near_threshold),
        shard_tokens=shard_tokens,
        workers=workers,
        resume=resume,
        parts=parts,
        part=part,
        plan=plan,
        met=met,
    )
    _prepare(request, as_json=as_json)


@app.command(epilog="Example: hierlm data stdlib --output data/demo")
def stdlib(
    *,
    output: OutputOption,
    tokenizer: TokenizerOption = "bytes",
    vocab_size: VocabSizeOption = 8192,
    model_type: ModelTypeOption = "bpe",
    tokenizer_model: TokenizerModelOption = None,
    allow_lossy: LossyOption = False,
    splits: SplitsOption = "valid=0.05,test=0.05",
    workers: WorkersOption = None,
    shard_tokens: ShardTokensOption = 1 << 24,
    resume: ResumeOption = False,
    as_json: JsonOption = False,
) -> None:
    """The sources of Python's own standard library as a dataset: text every machine has."""
    import platform

    from data_pipeline.prepare.stdlib_corpus import stdlib_files

    request = Request(
        files=stdlib_files(),
        given=(f"standard library of Python {platform.python_version()}",),
        output=output,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        model_type=model_type,
        tokenizer_model=tokenizer_model,
        allow_lossy=allow_lossy,
        splits=parse_splits(splits),
        shard_tokens=shard_tokens,
        workers=workers,
        resume=resume,
    )
    _prepare(request, as_json=as_json)


@app.command(epilog="Example: hierlm data verify data/demo")
def verify(directory: DatasetArgument, as_json: JsonOption = False) -> int:
    """Check every byte against the checksums; damaged shards are named, exit code 1."""
    from data_pipeline.check.verify import verify as find_problems

    with json_on_stdout(as_json) as print_json, _progress() as progress:
        problems = find_problems(directory, progress=progress)
        progress.close()
        if as_json:
            print_json({"path": str(directory), "ok": not problems, "problems": problems})
    if not as_json:
        print("\n".join(problems) or f"{directory}: every shard is what dataset.json says")
    return FAILED if problems else 0


@app.command(epilog="Example: hierlm data inspect data/demo --samples 3")
def inspect(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="a prepared dataset, or its address")],
    samples: Annotated[int, typer.Option(min=0, help="stretches of text shown per split")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Counts, compression and samples as text."""
    from data_pipeline.check.inspection import inspect as summary_of

    summary = summary_of(directory, samples=samples)
    if as_json:
        with json_on_stdout(as_json) as print_json:
            print_json(summary)
        return
    _print_inspection(summary)


def _image_shape(kind: Kind, files: "tuple[SourceFile, ...]", broken: Broken) -> "ImageShape | None":
    if kind == "text":
        return None
    from data_pipeline.prepare.images import common_shape

    return common_shape(files, skip_broken=broken == "skip")


@contextmanager
def _progress() -> "Iterator[Progress]":
    from data_pipeline.prepare.progress import for_stream

    progress = for_stream()
    try:
        yield progress
    finally:
        progress.close()


def _prepare(request: Request, *, as_json: bool) -> None:
    from data_pipeline.check.inspection import inspect as summary_of
    from data_pipeline.prepare.dataset import prepare as prepare_dataset

    with json_on_stdout(as_json) as print_json:
        with _progress() as progress:
            made = prepare_dataset(request, progress=progress)
        if made.dataset is None:
            _say_what_is_left(request, print_json if as_json else None)
            return
        summary = summary_of(request.output, samples=0) | {"reused": made.reused}
        if as_json:
            print_json(summary)
            return
    said = "is there already, made of the same inputs with the same options" if made.reused else "written"
    print(f"{request.output}: {said}")
    _print_counts(summary)


def _submit(cluster: Path, *, output: Path, parts: int, as_json: bool) -> None:
    """The command of this process as jobs, without `--cluster`."""
    from launcher.cluster import load_cluster
    from launcher.submit.preparation import JOBS_SUFFIX, submit_preparation

    words = [word for word in sys.argv[1:] if word not in (f"--cluster={cluster}", "--json")]
    if "--cluster" in words:
        place = words.index("--cluster")
        del words[place : place + 2]
    with json_on_stdout(as_json) as print_json:
        job_ids = submit_preparation(words, output=output, parts=parts, site=load_cluster(cluster))
        if as_json:
            print_json({"path": str(output), "job_ids": job_ids})
            return
    plan, array, merge = job_ids
    print(f"{output}: jobs {plan} (plan), {array} ({parts} parts) and {merge} (index); logs in {output}{JOBS_SUFFIX}/")


def _say_what_is_left(request: Request, print_json: "JsonPrinter | None") -> None:
    what = "planned" if request.plan else f"part {request.part} of {request.parts} is prepared"
    if print_json:
        print_json({"path": str(request.output), "plan": request.plan, "part": request.part, "parts": request.parts})
        return
    print(f"{request.output}: {what}; when all parts are, run the same command with --resume and without --part")


def _print_inspection(summary: dict[str, Any]) -> None:
    tokenizer = summary["tokenizer"]
    print(f"{summary['path']}: dataset {summary['fingerprint'][:16]}")
    print(_made_of(summary))
    print(f"tokenizer {tokenizer['kind']} {tokenizer['fingerprint'][:16]}, {tokenizer['vocab_size']} tokens")
    _print_counts(summary)
    for name, split in summary["splits"].items():
        for number, sample in enumerate(split["samples"]):
            print(f"\n--- {name}, sample {number + 1}\n{sample}")


def _made_of(summary: dict[str, Any]) -> str:
    if summary["image_shape"] is None:
        return f"kind {summary['kind']}"
    height, width = summary["image_shape"]
    return f"kind {summary['kind']}, {height}x{width} pixels of 3 bytes: {height * width * 3} tokens each"


def _print_counts(summary: dict[str, Any]) -> None:
    from data_pipeline.read.split import lossy_note

    come = "that hold" if summary["lossy"] else "from"
    if summary["lossy"]:
        print(lossy_note(summary["path"]))
    for name, split in summary["splits"].items():
        ratio = "" if split["bytes_per_token"] is None else f", {split['bytes_per_token']:.2f} bytes/token"
        print(
            f"{name}: {split['tokens']:,} tokens in {split['shards']} shards {come} {split['source_bytes']:,} bytes"
            f"{ratio}, {split['documents']:,} {'images' if summary['kind'] == 'images' else 'documents'}"
        )
    for kind, met in summary["made"].get("met", {}).items():
        print(f"{kind}: {met['count']:,}, first: {met['first'][0]}")
