"""Configs at the door: numbers by YAML 1.2, what was accepted is accepted again, and nothing ends in a traceback."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierlm.config.load import dump_config, load_config
from hierlm.errors import UserError
from tests.config.making import config, write
from tests.conftest import ROOT

TINY = sorted((ROOT / "configs" / "tiny").glob("*.yaml"))


@pytest.mark.parametrize(
    ("word", "value"),
    [("010", 10), ("0o17", 15), ("0x10", 16), ("7", 7)],
)
def test_whole_numbers_on_the_command_line_and_in_the_file(word: str, value: int, tmp_path: Path) -> None:
    assert config(tmp_path, f"seed={word}").seed == value
    path = write(tmp_path)
    path.write_text(path.read_text() + f"\nseed: {word}\n")
    assert load_config(path).seed == value


@pytest.mark.parametrize("word", ["1_000", "1:30", "yes", "0b11", "1e3.5"])
def test_what_version_1_1_took_for_a_number_is_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"seed: given .*allowed: an integer"):
        config(tmp_path, f"seed={word}")


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "Yes"])
def test_a_switch_is_true_or_false_and_nothing_else(word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="true or false"):
        config(tmp_path, f"train.deterministic={word}")


@pytest.mark.parametrize("word", ["1e-4", "1.0e-4", "1E-4", "0.0001", ".0001"])
def test_a_small_number_may_be_written_in_every_way(word: str, tmp_path: Path) -> None:
    assert config(tmp_path, f"phases.0.learning_rate.peak={word}", "phases.0.learning_rate.final=0").phases[
        0
    ].learning_rate.peak == pytest.approx(1e-4, rel=0, abs=0)


TEXTS = st.one_of(
    st.sampled_from(
        ["1e5", "1e-4", "0o17", "010", "no", "on", "~", "1:30", "2026-01-02", "null", "a: b", "#", "=", "<<"]
    ),
    st.text(st.sampled_from("\\${}a.:'\"#~ 0e1-+\n\t"), min_size=1, max_size=10),
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8),
)


@given(texts=st.tuples(TEXTS, TEXTS))
def test_a_config_accepted_once_is_read_again(texts: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        plain = config(folder)
        data = plain.data.model_copy(update={"path": texts[0]})
        accepted = type(plain).model_validate({**plain.model_dump(), "data": data.model_dump(), "run_root": texts[1]})
    except ValueError:
        return  # never accepted
    (folder / "again.yaml").write_text(dump_config(accepted), encoding="utf-8")
    assert load_config(folder / "again.yaml") == accepted


@pytest.mark.parametrize("path", [*TINY, *sorted((ROOT / "configs" / "papers").rglob("*.yaml"))], ids=lambda p: p.stem)
def test_every_config_that_comes_with_the_sources_is_read_again(path: Path, tmp_path: Path) -> None:
    accepted = load_config(path)
    (tmp_path / "again.yaml").write_text(dump_config(accepted), encoding="utf-8")
    assert load_config(tmp_path / "again.yaml") == accepted


PIECES = (
    "0", "-1", "1e999", "010", "1_0", "yes", "null", "~", "[]", "{}", "[1", "{a: ", "'", '"',
    ": ", "- ", "\n", "  ", "\t",
    "#", "[" * 3000, "&x [*x]", "{a: 1, a: 2}",
    "&a ", "*a", "!!int ", "<<: *a", "${seed}", "${", "${oc.env:HOME}", "???", "|\n", "\x00", "\ufeff", "ä", "9" * 30,
    "%", "@",
    "phases:", "model:", "sources:", "steps", "1.5", ".nan", ".inf", "true", "? ", "---", "...", "!x ", "0x", "\udcff",
)  # fmt: skip


def mutated(text: str, draw: random.Random) -> str:
    """A few pieces put in, cut out, doubled or exchanged."""
    for _ in range(draw.randint(1, 3)):
        place, end = sorted(draw.choices(range(len(text) + 1), k=2))
        end = min(end, place + draw.choice([1, 5, 40]))
        piece = draw.choice([*PIECES, text[place:end]])
        text = text[:place] + piece + text[draw.choice([place, end, place + 1]) :]
        if draw.random() < 0.3:  # a value, where it hurts more than amid a word
            lines = text.split("\n")
            at = draw.randrange(len(lines))
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}{colon} {draw.choice(PIECES)}" if colon else lines[at]
            text = "\n".join(lines)
    return text


def taken_or_refused(text: str, folder: Path) -> bool:
    """Whether a config is accepted; if not, in lines."""
    path = folder / "mutated.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    try:
        accepted = load_config(path)
    except UserError as error:
        assert error.problems and all(line.strip() and "\n" not in line for line in error.problems), error.problems
        return False
    (folder / "again.yaml").write_text(dump_config(accepted), encoding="utf-8")
    assert load_config(folder / "again.yaml") == accepted
    return True


@pytest.mark.parametrize("seed", range(4))
def test_mutated_configs_are_taken_or_refused_in_lines(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    texts = [path.read_text() for path in TINY]
    taken = [taken_or_refused(mutated(draw.choice(texts), draw), tmp_path) for _ in range(40)]
    assert any(taken) and not all(taken)


@pytest.mark.matrix
@pytest.mark.parametrize("seed", range(100, 120))
def test_many_mutated_configs(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    texts = [path.read_text() for path in TINY]
    for _ in range(500):
        taken_or_refused(mutated(draw.choice(texts), draw), tmp_path)
