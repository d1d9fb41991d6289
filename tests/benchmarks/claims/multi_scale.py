"""Thirty hierarchical layers need less memory and are better than fewer than half as many plain ones (2005.00581)."""

from collections.abc import Iterator
from statistics import fmean

from tests.benchmarks import bench_activation_memory
from tests.benchmarks.claims.corpora import NOVELS
from tests.benchmarks.claims.declared import Arm, Claim
from tests.benchmarks.claims.findings import Contrast, Finding, Vote, contrast, percent
from tests.benchmarks.claims.plot import Point, scatter_plot
from tests.benchmarks.claims.results import Results, RunResult

PLAIN, HIERARCHICAL = "vanilla-14", ("top-down-30", "bottom-up-30", "retina-30")
TITLES = {
    PLAIN: "transformer, 14 layers",
    "top-down-30": "top-down, 30 layers",
    "bottom-up-30": "bottom-up, 30 layers",
    "retina-30": "retina, 30 layers",
}
_LARGE_BATCH = ("phases.0.global_batch_size=16", "phases.0.duration.steps=3", "phases.0.learning_rate.warmup.steps=1")


def _trained(name: str) -> str:
    return f"multi-scale-{name}"


def _measured(name: str) -> str:
    return f"memory-{name}"


TRAINED = tuple(Arm(_trained(n), t, f"multi_scale/scaled-{n}.yaml", seeds=(1, 2)) for n, t in TITLES.items())
# three steps of a batch at which activations count for more than weights, as they do in the paper's trainings
MEASURED = tuple(
    Arm(
        _measured(name),
        f"{title}: memory at batch 16",
        f"multi_scale/scaled-{name}.yaml",
        overrides=(*_LARGE_BATCH, "train.eval_rows=4", "train.eval_every=null"),
        seeds=(1,),
    )
    for name, title in TITLES.items()
)


def measure() -> dict[str, dict[str, int]]:
    """Bytes of activations of a forward and backward pass at width 256, every model in a process of its own."""
    return {name: bench_activation_memory.measure(f"scaled-{name}") for name in TITLES}


def judge(results: Results) -> list[Finding]:
    """One vote for each of the three."""
    told = [_of_one(results, name) for name in HIERARCHICAL]
    holders = [TITLES[name] for name, finding in zip(HIERARCHICAL, told, strict=True) if finding.vote == "yes"]
    found = ", ".join(holders) or "none of the three"
    together = Finding(f"Less memory and a lower perplexity than the plain model together: {found}.", "note")
    return [together, *told, *_activations(results)]


def _activations(results: Results) -> Iterator[Finding]:
    """One note a measure, of the activations alone."""
    if not results.measured:
        return
    plain = results.measured[PLAIN]
    for key, meaning in bench_activation_memory.MEASURES.items():
        shares = [f"{TITLES[name]} {percent(results.measured[name][key] / plain[key])}" for name in HIERARCHICAL]
        yield Finding(f"At width 256, batch 4, {meaning}: {', '.join(shares)}.", "note")


def _of_one(results: Results, name: str) -> Finding:
    large = _memory(results.of(_measured(name))) / _memory(results.of(_measured(PLAIN)))
    small = _memory(results.of(_trained(name))) / _memory(results.of(_trained(PLAIN)))
    quality = contrast(*([run.perplexity for run in results.of(_trained(n))] for n in (name, PLAIN)))
    text = (
        f"{TITLES[name]}: peak memory of training {percent(large)} at batch 16 and {percent(small)} at the batch of "
        f"the runs, 2; perplexity {quality.text('')}."
    )
    return Finding(text.replace("  ", " "), _vote(large, quality))


def _vote(memory: float, quality: Contrast) -> Vote:
    if memory >= 1 or quality.vote == "no":
        return "no"
    return quality.vote


def _memory(runs: list[RunResult]) -> float:
    return fmean(run.peak_bytes for run in runs)


def figure(results: Results) -> str:
    """Perplexity of every run over the peak memory at batch 16."""
    points = []
    for index, (name, title) in enumerate(TITLES.items()):
        memory = _memory(results.of(_measured(name))) / 2**20
        points += [Point(title, index, memory, run.perplexity) for run in results.of(_trained(name))]
    return scatter_plot(points, x="peak memory of training at batch 16 (MiB)", y="perplexity, valid")


CLAIM = Claim(
    name="multi-scale",
    paper="2005.00581",
    says="A 30-layer hierarchical model is smaller in memory and better than a vanilla one with under half the layers.",
    protocol="14 plain layers against 30 (9 on tokens, 9 on fours, 12 on sixteens; in the retina all 30 on tokens) at "
    "equal width 96, context 512, data (English novels, 1024 sentencepiece tokens) and tokens, two seeds; memory is "
    "the process's measured peak above what its libraries held, weights and moments included.",
    corpus=NOVELS,
    arms=(*TRAINED, *MEASURED),
    columns=("runs", "parameters", "steps", "tokens", "flops", "memory", "perplexity"),
    judge=judge,
    figure=figure,
    figure_title="perplexity over peak memory, every seed",
    limits="The paper's sizes are not published, so the split of the 30 layers is ours; a width at which weights and "
    "moments are a large part of the memory; fewer than a million tokens.",
    measure=measure,
)
