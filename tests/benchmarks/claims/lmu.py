"""LMU needs fewer tokens than a transformer for the same loss; adding global attention helps (2110.02402)."""

import math
from functools import cache
from statistics import fmean

from hierlm.config.load import load_config
from hierlm.config.run_config import RunConfig
from hierlm.models.config import ModelConfig
from tests.benchmarks.claims.corpora import WIKITEXT
from tests.benchmarks.claims.declared import PAPERS, Arm, Claim
from tests.benchmarks.claims.findings import Finding, contrast, power_law, tokens_for
from tests.benchmarks.claims.plot import Line, line_plot
from tests.benchmarks.claims.results import Results, RunResult
from tests.conftest import ROOT

WIDTHS = (48, 96, 144)
SEEDS = (1, 2)
KINDS = {
    "lmu": ("LMU", 2),
    "lmu-global": ("LMU with global attention", 2),
    "transformer": ("transformer", 4),
    "lstm": ("LSTM", 0),
}
"""Title, and feed-forward width over width: 3 LMU blocks and 2 transformer blocks are both N = 24 d^2."""
LSTM_WIDTHS = {48: 59, 96: 118, 144: 176}
"""Two LSTM layers as large as the others."""
LONG_TIMES = 4


def _file(kind: str) -> str:
    return f"lmu/scaled-{kind}.yaml"


@cache
def _config(kind: str) -> RunConfig[ModelConfig]:
    """Of the smallest width."""
    return load_config(ROOT / PAPERS / _file(kind))


def _arm(kind: str, width: int) -> Arm:
    title, ffn = KINDS[kind]
    own_width = LSTM_WIDTHS[width] if kind == "lstm" else width
    sizes = (f"model.hidden_dim={own_width}", *((f"model.ffn_dim={ffn * width}",) if ffn else ()))
    if width != WIDTHS[0]:  # a wider layer moves more at the same rate of its weights
        peak = _config(kind).phases[0].learning_rate.peak * WIDTHS[0] / width
        sizes += (f"phases.0.learning_rate.peak={peak:.3g}",)
    return Arm(f"{kind}-{width}", f"{title}, d = {own_width}", _file(kind), sizes, SEEDS)


def _long(width: int) -> Arm:
    """The transformer with more tokens: how many it needs lies between, if it is not more."""
    arm = _arm("transformer", width)
    more = f"phases.0.duration.steps={LONG_TIMES * _config('transformer').phases[0].num_steps}"
    title = f"{arm.title}, {LONG_TIMES} x tokens"
    return Arm(f"{arm.name}-long", title, arm.config, (*arm.overrides, more), (1,))


ARMS = (*(_arm(kind, width) for width in WIDTHS for kind in KINDS), *(_long(width) for width in WIDTHS))


def judge(results: Results) -> list[Finding]:
    """A vote for the tokens and one for the attention at every size; exponents are told."""
    findings = [_tokens(results, width) for width in WIDTHS]
    findings += [_attention(results, width) for width in WIDTHS]
    return [*findings, _lstm(results), _exponents(results)]


def _tokens(results: Results, width: int) -> Finding:
    lmu, short, long = (results.of(arm.name) for arm in (_arm("lmu", width), _arm("transformer", width), _long(width)))
    target = _loss(lmu)
    ends = [(fmean(run.tokens for run in runs), _loss(runs)) for runs in (short, long)]
    ratio = tokens_for(target, short=ends[0], long=ends[1]) / lmu[0].tokens
    needs = f"{ratio:.2f} times the LMU's tokens"
    if not 0 < ratio < math.inf:
        needs = f"more than {LONG_TIMES} times the LMU's tokens" if ratio else "no more tokens than the LMU"
    text = (
        f"d = {width}: the transformer needs {needs} for the LMU's loss of {target:.3f} (it has {ends[0][1]:.3f} with "
        f"as many tokens, {ends[1][1]:.3f} with {LONG_TIMES} times as many)."
    )
    return Finding(text, contrast(_losses(lmu), _losses(short)).vote)


def _attention(results: Results, width: int) -> Finding:
    with_it, without = (results.of(_arm(kind, width).name) for kind in ("lmu-global", "lmu"))
    found = contrast(_losses(with_it), _losses(without))
    return Finding(f"d = {width}: with global attention the LMU's loss is {found.text('nats')}.", found.vote)


def _lstm(results: Results) -> Finding:
    pairs = [[_loss(results.of(_arm(kind, width).name)) for kind in ("lstm", "lmu")] for width in WIDTHS]
    text = ", ".join(f"{lstm - lmu:+.3f} at d = {width}" for width, (lstm, lmu) in zip(WIDTHS, pairs, strict=True))
    return Finding(f"The LSTM's loss beside the LMU's, nats: {text}.", "note")


def _exponents(results: Results) -> Finding:
    fits = []
    for kind, (title, _) in KINDS.items():
        groups = [results.of(_arm(kind, width).name) for width in WIDTHS]
        sizes = [runs[0].num_non_embedding_parameters for runs in groups]
        by_size = power_law(sizes, [_loss(runs) for runs in groups])[1]
        largest = groups[-1][0].evaluations
        by_tokens = power_law(largest.tokens, largest.loss)[1]
        fits.append(f"{title} {by_size:.3f} and {by_tokens:.3f}")
    return Finding(
        "Fitted exponents, loss ~ N^-a over the sizes and loss ~ tokens^-b along the largest run: "
        f"{'; '.join(fits)}. The paper's a: LMU 0.072, with attention 0.069, LSTM 0.071, transformer 0.077.",
        "note",
    )


def _losses(runs: list[RunResult]) -> list[float]:
    return [run.loss for run in runs]


def _loss(runs: list[RunResult]) -> float:
    return fmean(_losses(runs))


def figure(results: Results) -> str:
    """Evaluated loss over tokens: colour by architecture, one line a size and seed."""
    lines = []
    for index, (kind, (title, _)) in enumerate(KINDS.items()):
        for width in WIDTHS:
            for run in results.of(_arm(kind, width).name):
                lines.append(Line(title, index, run.evaluations.tokens, run.evaluations.loss))
    return line_plot(lines, x="training tokens", y="loss, valid (nats per token)", log_x=True)


CLAIM = Claim(
    name="lmu",
    paper="2110.02402",
    says="LMU needs fewer tokens than a transformer for the same loss; adding global attention helps.",
    protocol="LMU, LMU with global attention, transformer and LSTM at N = 24 d^2 for d = 48, 96, 144 (57k to 0.5M "
    "weights besides the embedding), T = 256 sentencepiece tokens of WikiText-2, 0.8 million tokens each, two seeds, "
    f"the transformer also {LONG_TIMES} times as many, one seed. Tokens needed are read between the ends of the "
    "transformer's two trainings, each with its own whole schedule.",
    corpus=WIKITEXT,
    arms=ARMS,
    columns=("runs", "non_embedding", "steps", "tokens", "flops", "seconds", "loss"),
    judge=judge,
    figure=figure,
    figure_title="loss over tokens: three sizes of each, every seed",
    limits="A 16,000th of the study's tokens, half of its largest size. The peak of the rate is the best of three or "
    "four tried at the smallest width in half of the steps (the LSTM's is not tuned), and falls as 1/d. Equal tokens "
    "are not equal compute: see FLOPs and time.",
)
