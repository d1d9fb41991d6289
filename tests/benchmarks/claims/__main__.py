"""Try the papers' claims: prepare data, train, gather, judge, write CLAIMS.md. Started again, it goes on."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hierlm.errors import UserError
from hierlm.exit_codes import STOPPED
from tests.benchmarks.claims import document
from tests.benchmarks.claims.catalogue import CLAIMS, chosen
from tests.benchmarks.claims.corpora import prepare, prepare_command
from tests.benchmarks.claims.declared import Claim, rehearsed
from tests.benchmarks.claims.results import Results, export, gather, read, results_file
from tests.benchmarks.claims.runner import AT_ONCE, Runner, Work, first_of_each, unfinished

REHEARSED_STEPS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """0: done · 1: a run failed · 2: the user's input is wrong · 85: stopped, the same command goes on."""
    options = _parser().parse_args(arguments)
    try:
        claims = chosen(options.claims)
        if options.commands:
            print("\n".join(line for claim in claims for line in _commands(claim)))
            return 0
        if options.write:
            return _write(claims)
        return _try_all(claims, options)
    except UserError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.claims", description=__doc__)
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help=", ".join(claim.name for claim in CLAIMS))
    parser.add_argument("--at-once", type=int, default=AT_ONCE, metavar="N", help="runs at a time, one thread each")
    parser.add_argument("--rehearse", action="store_true", help="a few steps of each kind of run; nothing is kept")
    parser.add_argument("--gather", action="store_true", help="start nothing: gather what is finished, and write")
    parser.add_argument("--write", action="store_true", help="write CLAIMS.md from claims_results/ again")
    parser.add_argument("--commands", action="store_true", help="print the commands that do the same on a cluster")
    return parser


def _try_all(claims: Sequence[Claim], options: argparse.Namespace) -> int:
    worst = 0
    for claim in claims:
        worst = max(worst, _try(claim, options))
        if worst == STOPPED:
            break
    return worst


def _try(claim: Claim, options: argparse.Namespace) -> int:
    if options.gather:
        return _conclude(claim)
    prepare(claim.corpus)
    if options.rehearse:
        return _rehearse(claim, at_once=options.at_once)
    work = unfinished(claim.runs)
    _say(f"{claim.name}: {len(work)} of {len(claim.runs)} runs to do, {options.at_once} at a time")
    code, _ = _run(claim, work, at_once=options.at_once)
    return code if code == STOPPED else max(code, _conclude(claim))


def _run(claim: Claim, work: Sequence[Work], *, at_once: int) -> tuple[int, list[str]]:
    """(exit code, a line for each run that did not finish)."""
    runner = Runner(work, at_once=at_once, say=lambda line: _say(f"{claim.name}: {line}"))
    failed = runner.run()
    return STOPPED if runner.stopped else int(bool(failed)), failed


def _rehearse(claim: Claim, *, at_once: int) -> int:
    with tempfile.TemporaryDirectory(prefix=f"rehearse-{claim.name}-") as folder:
        runs = [rehearsed(run, steps=REHEARSED_STEPS, root=Path(folder)) for run in first_of_each(claim.runs)]
        code, failed = _run(claim, unfinished(runs), at_once=at_once)
        for line in failed:
            log = Path(line.rpartition("; ")[2])
            _say("\n".join(log.read_text(errors="replace").splitlines()[-5:]))
    _say(f"{claim.name}: rehearsed {len(runs)} kinds of run, {len(failed)} failed; nothing is kept")
    return code


def _conclude(claim: Claim) -> int:
    """Export what is finished, draw the plot when all is there, write the document."""
    results, kept = gather(claim), read(results_file(claim))
    if not results.missing(claim):
        results = results.model_copy(update={"measured": _measured(claim, kept)})
    export(results, results_file(claim))
    if not results.missing(claim):
        document.plot_file(claim).write_text(claim.figure(results))
    document.write(CLAIMS)
    _say(f"{claim.name}: {document.one_line(claim, results)}")
    _say(f"{claim.name}: results in {results_file(claim)}, written up in {document.DOCUMENT}")
    return 0


def _measured(claim: Claim, kept: Results | None) -> dict[str, dict[str, int]]:
    """As it was kept, or now."""
    if claim.measure is None or (kept is not None and kept.measured):
        return {} if kept is None else kept.measured
    _say(f"{claim.name}: measuring what no run records")
    return claim.measure()


def _write(claims: Sequence[Claim]) -> int:
    for claim in claims:
        results = read(results_file(claim))
        if results is not None and not results.missing(claim):
            document.plot_file(claim).write_text(claim.figure(results))
    document.write(CLAIMS)
    _say(f"written: {document.DOCUMENT}")
    return 0


def _commands(claim: Claim) -> list[str]:
    """The dataset, then every arm as a job array over its seeds, then gathering."""
    data = " ".join(["hierlm", *prepare_command(claim.corpus, data="$HIERLM_TEST_DATA")])
    arms = [f"{arm.submit_command} --cluster configs/clusters/cpu.yaml" for arm in claim.arms]
    return [f"# {claim.name}", data, *arms, f"python -m tests.benchmarks.claims {claim.name} --gather"]


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
