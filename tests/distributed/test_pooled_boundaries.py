"""Dynamic pooling with every kind of boundaries trains the same on every layout, cut into stages anywhere.

The losses of predicted boundaries arise on whatever stage the predictor stands, and those of `entropy` on the last one,
of a level that has crossed all stages; none of them may be lost, counted twice or scaled by how a step is cut up.
"""

from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from hierlm.config.load import load_config
from hierlm.models.assembly import canonical_names
from tests.distributed.deep_models import POOLING, WIDTHS, even_cut
from tests.distributed.runs import ALONE, Layout, Outcome, Run, Together, compared, differences, outcomes

KINDS = ("fixed", "whitespace", "unigram", "entropy", "gumbel")
PREDICTED = ("unigram", "entropy", "gumbel")
TWO, FOUR, COPIED, SLICED = Layout(1, 1, 2), Layout(1, 1, 4), Layout(2, 1, 2, zero=1), Layout(1, 2, 2, zero=1)
RECOMPUTE = ("none", "selective", "full")
QUICK = {("gumbel", FOUR, "selective"), ("entropy", SLICED, "full"), ("unigram", COPIED, "none")}
"""What `make test` runs: every kind with a loss, and of the layouts and kinds of recompute each once; the rest is in
`make matrix`."""
SETTINGS = (
    "phases=[{name: all, duration: {steps: 3}, sequence_length: 21, global_batch_size: 8,"
    " learning_rate: {peak: 0.01, decay: constant}}]",
    "optim.gradient_clip=0.5",
    "optim.eps=0.01",  # why: tests/distributed/test_deep_layouts.py
    "train.precision=fp32",
)


@pytest.fixture(scope="module")
def unigram_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sentencepiece model with a few words for pieces, and every byte."""
    at = tmp_path_factory.mktemp("unigram")
    (at / "text").write_text("hello world there\ntoken pooling groups\n" * 20, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(at / "text"), model_prefix=str(at / "m"), vocab_size=30, hard_vocab_limit=False, minloglevel=2
    )
    return str(at / "m.model")


def run_of(kind: str, layout: Layout, recompute: str, *, unigram_file: str, cut: list[int] | None = None) -> Run:
    words = (*WIDTHS, "model.num_heads=4", "model.ffn_dim=24", *POOLING, "model.max_groups=16", *SETTINGS)
    words += (f"model.boundaries={kind}",)
    words += (f"model.unigram_model={unigram_file}", "model.vocab_size=256") if kind == "unigram" else ()
    config = load_config("configs/tiny/dynamic_pooling.yaml", [*words]).model
    cut = cut or even_cut(config, num_stages=layout.pp)
    neutral = ("parallel.micro_batch_size=2", f"parallel.stage_cut={cut}", f"parallel.activation_recompute={recompute}")
    return Run("dynamic_pooling", words, layout, neutral=neutral)


def cases() -> list[Any]:
    found = []
    for case in [
        (kind, layout, recompute) for kind in KINDS for layout in (TWO, FOUR, COPIED, SLICED) for recompute in RECOMPUTE
    ]:
        marks = [pytest.mark.slow if case in QUICK else pytest.mark.matrix]
        found.append(pytest.param(*case, marks=marks, id="-".join(map(str, case))))
    return found


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, unigram_file: str) -> Together:
    """The outcome of every run that the chosen tests compare."""
    runs: dict[Any, Run] = {}
    for given in compared(request):
        case = (given["kind"], given["layout"], given["recompute"])
        run = run_of(*case, unigram_file=unigram_file)
        runs |= {(case[0], ALONE): run.alone, case: run}
    return Together(runs, tmp_path_factory.mktemp("pooled"))


@pytest.mark.distributed
@pytest.mark.parametrize(("kind", "layout", "recompute"), cases())
def test_losses_norms_moments_and_reports_equal_one_process(
    kind: str, layout: Layout, recompute: str, made: Together
) -> None:
    alone, found = made[kind, ALONE], made[kind, layout, recompute]
    wrong = differences(found, alone)
    assert not wrong, "\n".join([str(made.runs[kind, layout, recompute]), *wrong])
    assert isinstance(found, Outcome)
    assert set(found.moments) == set(canonical_names(_config(made.runs[kind, ALONE])))
    for loss, reported in zip([loss for loss, _ in found.steps] + found.nats, found.reported, strict=True):
        if kind in PREDICTED:
            assert reported["loss/total"] == pytest.approx(loss + reported["loss/boundary"], rel=1e-12)
        assert ("boundary_rate" in reported) is (kind != "fixed")
    trained = [name for name in found.moments if "predictor" in name]
    assert bool(trained) is (kind in PREDICTED)
    assert all(found.moments[name].abs().max() > 0 for name in trained)


@pytest.mark.distributed
@pytest.mark.matrix
@pytest.mark.parametrize("first_layer", [5, 6, 10, 11, 15])
def test_a_pipeline_may_be_cut_at_every_layer_that_pushes_or_pops(
    first_layer: int, tmp_path: Path, unigram_file: str
) -> None:
    """Before and behind the predictor, before and behind who reads the groups, and before the logits."""
    run = run_of("entropy", SLICED, "none", unigram_file=unigram_file, cut=[first_layer])
    found, alone = outcomes([run, run.alone], tmp_path)
    assert not differences(found, alone)


def _config(run: Run) -> Any:
    return load_config(Path("configs/tiny/dynamic_pooling.yaml"), run.words).model
