"""Whatever stands in a config file, it is read or refused: no traceback, and no memory without bound."""

import random
import resource
from pathlib import Path

import pytest
import yaml

from hierlm.config.load import load_config
from hierlm.config.raw import parse_mapping, resolved
from hierlm.errors import UserError
from hierlm.models import from_config
from tests.config.making import mapping

WORDS = (
    *(
        "[",
        "]",
        "{",
        "}",
        ":",
        "-",
        "?",
        "|",
        ">",
        "<<",
        "---",
        "...",
        "'",
        '"',
        "\t",
        "\n",
        "\0",
        "&a",
        "*a",
        "&a [*a]",
    ),
    *("!!int", "!!float", "!!int ''", "!!binary x", "!!timestamp x", "!!set", "!!python/object:os.system", "!!omap 1"),
    *(
        "null",
        "~",
        "010",
        "1e400",
        ".inf",
        ".nan",
        "0x",
        "1:30",
        "2020-13-99",
        "=",
        "9" * 5000,
        "%YAML 1.1",
        "é",
        "\U0001f600",
    ),
    *(
        "${a}",
        "${name}",
        "${oc.env:HOME}",
        "${oc.create:1}",
        "${",
        "${.x}",
        "${oc.decode:'['}",
        "[" * 3000,
        "{a: " * 3000,
    ),
)


def mutated(text: str, draw: random.Random) -> str:
    """The text with a word put in, a stretch taken out, a value replaced, or a line repeated."""
    lines = text.split("\n")
    line, place = draw.randrange(len(lines)), draw.randrange(len(text) + 1)
    match draw.randrange(4):
        case 0:
            return text[:place] + draw.choice(WORDS) + text[place:]
        case 1:
            return text[:place] + text[place + draw.randrange(1, 30) :]
        case 2:
            lines[line] = f"{lines[line].partition(':')[0]}: {draw.choice(WORDS)}"
        case _:
            lines.insert(line, draw.choice(lines))
    return "\n".join(lines)


def read_or_refused(folder: Path, *, seed: int, examples: int) -> set[bool]:
    draw, path, seen = random.Random(seed), folder / "config.yaml", set[bool]()
    for _ in range(examples):
        text = yaml.safe_dump(mapping())
        for _ in range(draw.randrange(1, 5)):
            text = mutated(text, draw)
        path.write_text(text, encoding="utf-8")
        try:
            load_config(path)
            seen.add(True)
        except UserError as error:
            assert all(len(problem.splitlines()) == 1 for problem in error.problems), text
            seen.add(False)
    return seen


def test_a_config_is_read_or_refused(tmp_path: Path) -> None:
    assert read_or_refused(tmp_path, seed=1, examples=150) == {True, False}


@pytest.mark.matrix
def test_many_more_configs_are(tmp_path: Path) -> None:
    assert read_or_refused(tmp_path, seed=2, examples=1000) == {True, False}


@pytest.mark.parametrize("text", ["a: !!int", "a: !!int ''", "a: " + "[" * 100_000, "a: " + "{b: " * 5000, "? {}\n: 1"])
def test_what_trips_the_parser_is_one_line(text: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_mapping(text, source="x.yaml")
    assert len(refused.value.problems) == 1 and len(str(refused.value).splitlines()) == 1


def test_repetitions_are_counted_before_they_are_written_out() -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
    bomb = "\n".join(["l0: &l0 [1]", *levels])
    for text, said in ((bomb, "aliases written out"), ("a: &a [*a]", "contains itself")):
        with pytest.raises(UserError, match=said):
            parse_mapping(text, source="x.yaml")
    assert parse_mapping("a: &a [1, 2]\nb: *a\n", source="x.yaml") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("text", ["model: " + "[" * 100_000, "model: !!int", "model: &a [*a]", "model: {arch: ["])
def test_an_exported_config_is_read_through_the_same_door(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises((ValueError, yaml.YAMLError)):
        from_config(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "link",
    ['"${{x{0}}}${{x{0}}}"', "{{a: '${{x{0}}}', b: '${{x{0}}}'}}", '"${{oc.select:x{0}}}${{oc.select:x{0}}}"'],
    ids=["texts", "mappings", "selections"],
)
@pytest.mark.parametrize("first", ["ten letters", "''"], ids=["growing", "empty"])
def test_interpolations_that_grow_are_one_line_before_they_do(link: str, first: str, tmp_path: Path) -> None:
    chain = "\n".join([f"x0: {first}", *(f"x{n}: {link.format(n - 1)}" for n in range(1, 31))])
    (tmp_path / "x.yaml").write_text(f"{chain}\nname: '${{x30}}'\n")
    limit = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), limit[1]))
    try:
        with pytest.raises(UserError, match="write the values out") as refused:
            load_config(tmp_path / "x.yaml")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    grown = [line for line in refused.value.problems if "write the values out" in line]
    assert len(grown) == 1 and all("\n" not in line and len(line) < 500 for line in refused.value.problems)


def test_interpolations_that_people_write_are_resolved(tmp_path: Path) -> None:
    words = {f"x{n}": f"${{name}}-{n}-${{seed}}" for n in range(300)}
    resolved_, problems = resolved({"name": "a", "seed": 1, **words})
    assert not problems and resolved_["x299"] == "a-299-1"
