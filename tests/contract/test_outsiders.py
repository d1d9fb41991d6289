"""`hierlm models test` passes the page's example, and names what is wrong with a file that is."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hierlm import plugins
from hierlm.contract import layouts
from hierlm.contract.case import Case
from hierlm.contract.checks import MATHEMATICS, Outcome, outcome
from launcher.cli import run
from tests.test_plugins import EXAMPLE, written

FORWARD = "hidden, _ = self._advance(stream.hidden, (0.0, 0))\n"
assert FORWARD in EXAMPLE

WRONG = {
    "sees the future": (
        FORWARD,
        FORWARD + "            hidden = hidden + stream.hidden.mean(dim=1, keepdim=True)\n",
        "no_logit_depends_on_a_later_token",
        r"with tokens 1 to 1 of 2 changed, logits before them differ by up to \d",
    ),
    "stores what it read": (
        FORWARD,
        "hidden, seen = self._advance(stream.hidden, getattr(self, 'seen', (0.0, 0)))\n"
        "            self.seen = (seen[0].detach().mean(dim=0, keepdim=True), seen[1])\n",
        "stores_nothing_between_calls",
        r"in evaluation, logits after another text was read differ by up to \d",
    ),
    "decodes otherwise": (
        "return hidden, (sums[:, -1:], count + x.shape[1])",
        "return hidden, (sums[:, -1:], count + 1)",
        "generation_equals_the_forward_pass",
        r"logits of pieces of \[5, 1, 1, 6\] tokens differ by up to \d",
    ),
    "counts its weights wrongly": (
        "+ 3 * d) + 2 * d\n",
        "+ 3 * d)\n",
        "number_of_parameters_is_known",
        r"num_parameters says \d+, the model has \d+",
    ),
    "forgets a weight in its plan": (
        '    r"layers\\.\\d+\\.expand": "column",\n',
        "",
        "tensor_plan_names_every_weight_once",
        r"layers\.1\.expand\.weight matches no pattern",
    ),
}
PLANS = {
    "cuts one of two": (
        '"layers\\.\\d+\\.contract": "row"',
        '"layers\\.\\d+\\.contract": "replicate"',
        r"on 2 processes: RuntimeError: .* shapes cannot be multiplied",
    ),
    "takes whole weights for parts": (
        '"layers\\.\\d+\\.norm": "replicate"',
        '"layers\\.\\d+\\.norm": "partial"',
        r"step 1, rank 0: gradient norm [\d.]+, one process has [\d.]+",
    ),
}


@pytest.fixture(autouse=True)
def new_process() -> Iterator[None]:
    plugins.forget_all()
    yield
    plugins.forget_all()


def case_of(folder: Path, *changes: tuple[str, str]) -> Case:
    text = EXAMPLE
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    plugins.give_files([str(written(folder / "outsider.py", text))])
    return Case({"arch": "running_mean", "num_layers": 3, "hidden_dim": 32})


def test_the_example_keeps_the_contract(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    found = [outcome(check, case) for check in MATHEMATICS]
    assert [each for each in found if each.state == "failed"] == []
    left_out = ["every_token_reaches_every_logit", "state_continues_the_streams"]
    assert [each.name for each in found if each.state == "left out"] == left_out


ENCODER = '''
"""A transformer whose tokens see all of the text (1810.04805)."""

from hierlm.models import transformer
from hierlm.models.transformer import PAPER, TENSOR_PLAN, Config, list_length, num_parameters

PLUGIN = "architecture.encoder"
SEES = frozenset({"all"})


def layers(config):
    from functools import partial

    from hierlm.nn.attention.visibility import All
    from hierlm.nn.basic.block import Block

    return [partial(spec, rule=All()) if spec.func is Block else spec for spec in transformer.layers(config)]
'''


def test_an_encoder_is_asked_for_both_directions_and_not_for_the_past_alone(tmp_path: Path) -> None:
    plugins.give_files([str(written(tmp_path / "encoder.py", ENCODER))])
    sizes = {"num_layers": 2, "hidden_dim": 16, "ffn_dim": 24, "num_heads": 2, "vocab_size": 40}
    for positions in ("rotary", "relative"):
        case = Case({"arch": "encoder", "positions": positions, **sizes})
        found = {each.name: each for each in (outcome(check, case) for check in MATHEMATICS)}
        assert [each for each in found.values() if each.state == "failed"] == []
        assert found["every_token_reaches_every_logit"].state == "ok"
        asked_of_the_past = ("no_logit_depends_on_a_later_token", "logits_of_a_prefix_are_a_prefix")
        assert {found[name].state for name in asked_of_the_past} == {"left out"}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_layer_fails_in_a_line_that_says_what(what: str, tmp_path: Path) -> None:
    old, new, check, line = WRONG[what]
    case = case_of(tmp_path, (old, new))
    found = outcome(next(each for each in MATHEMATICS if each.__name__ == check), case)
    assert found.state == "failed" and re.match(line, found.why), found
    assert "\n" not in found.why


@pytest.mark.slow
@pytest.mark.distributed
def test_the_example_is_cut_over_processes(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    for check in (layouts.tensor_parallel_2_equals_one_process, layouts.pipeline_parallel_2_equals_one_process):
        assert outcome(check, case) == Outcome(check.__name__, "ok", "")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("what", PLANS)
def test_a_wrong_tensor_plan_fails_in_a_line_that_says_what(what: str, tmp_path: Path) -> None:
    old, new, line = PLANS[what]
    found = outcome(layouts.tensor_parallel_2_equals_one_process, case_of(tmp_path, (old, new)))
    assert found.state == "failed" and re.search(line, found.why), found


def test_the_verb_prints_a_line_for_each_check_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hierlm.contract.checks.LAYOUTS", ())
    monkeypatch.setattr("hierlm.contract.checks.MATHEMATICS", MATHEMATICS[2:6])
    old, new, *_ = WRONG["counts its weights wrongly"]
    file = written(tmp_path / "outsider.py", EXAMPLE.replace(old, new))
    assert run(["models", "test", "running_mean", "--plugin", str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0].split()[0] for line in lines[:4]] == ["ok", "failed", "ok", "ok"]
    assert lines[-1] == "running_mean: 1 of 4 checks failed"


def test_one_of_ours_is_tested_at_its_tiny_size_or_at_that_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hierlm.contract.checks.LAYOUTS", ())
    monkeypatch.setattr("hierlm.contract.checks.MATHEMATICS", MATHEMATICS[2:4])
    assert run(["models", "test", "lstm"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "lstm: keeps the contract"
    file = written(tmp_path / "small.yaml", "model: {arch: lstm, hidden_dim: 8}\n")
    assert run(["models", "test", "lstm", "--config", str(file)]) == 2
    assert "small.yaml: num_layers: missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["test", "no_such"], "no_such: no such architecture"),
        (["lstm", "more"], "go with `hierlm models test NAME` alone"),
    ],
)
def test_what_cannot_be_tested_is_exit_code_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", *words]) == 2
    assert said in capsys.readouterr().err
