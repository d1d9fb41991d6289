"""Whatever a cluster file holds: it is refused, or the job script's header says just that and nothing else."""

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hierlm.errors import UserError
from launcher.cluster import ClusterProfile, load_cluster
from launcher.header_text import MAX_CHARACTERS, header_text
from launcher.slurm.sbatch import header, render
from launcher.submit.preparation import Stage
from launcher.submit.preparation import render as render_stage
from launcher.submit.sweep import render_array
from tests.launcher.making import job

OPTIONS = ("partition", "account", "qos", "constraint", "reservation", "gres", "memory")
TEXTS = st.one_of(
    st.text(min_size=1, max_size=30),
    st.text(alphabet="ab \n\r\t\x0b\x0c\x1b\x00\x85\u2028\\\"'#$`%|&[]", min_size=1, max_size=12),
)


def headers(script: str) -> list[str]:
    """The lines that sbatch reads as options: those up to the first command."""
    lines = script.split("\n")[1:]
    end = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[end:])
    return lines[:end]


@given(st.sampled_from(OPTIONS), TEXTS)
def test_a_value_is_refused_or_is_one_option_of_one_line(field: str, text: str) -> None:
    plain = headers(render(job(Path("/runs/run")), train_script=Path("/train.sh")))
    try:
        ClusterProfile(**{field: text})
    except ValidationError as refused:
        assert len(refused.errors()) == 1
        return
    found = headers(render(job(Path("/runs/run"), site={field: text}), train_script=Path("/train.sh")))
    told = [line for line in found if line not in plain]
    assert len(told) == 1 and told[0].isprintable() and len(found) <= len(plain) + 1
    (word,) = shlex.split(told[0].removeprefix("#SBATCH "), comments=True)
    value = f"{text}:4" if field == "gres" else text
    assert word.partition("=")[2] == value


@given(TEXTS)
def test_a_line_of_the_sites_own_is_refused_or_stays_one(text: str) -> None:
    try:
        ClusterProfile(sbatch_lines=(text,))
    except ValidationError:
        return
    assert f"#SBATCH {text}" in headers(render(job(Path("/runs/run"), site={"sbatch_lines": [text]})))


@given(st.text(alphabet=st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=20))
def test_a_path_cannot_break_the_header(name: str) -> None:
    folder = Path("/data") / name
    spec = job(folder)
    for script in (
        render(spec),
        render_stage(Stage("plan", ()), ("data", "prepare"), folder=folder, site=spec.site),
        render_array("base", spec, [spec.run_dir]),
    ):
        assert all(line.startswith("#SBATCH --") and line.isprintable() for line in headers(script))


@pytest.mark.parametrize(
    "text", ["h100\n", "h100\r", "a\nb", " a", "", "a\x1b[2J", "a\u2028b", "x" * (MAX_CHARACTERS + 1)]
)
def test_what_is_no_header_text_is_refused_by_the_one_function(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: "):
        header_text(text)
    with pytest.raises(UserError, match="of the job's header"):
        header([f"--comment={text}" if text.strip() and text == text.strip() else text])


def test_a_constraint_with_a_line_break_is_one_line_of_advice(tmp_path: Path) -> None:
    path = tmp_path / "cl.yaml"
    path.write_text("constraint: |\n  h100\n")
    with pytest.raises(UserError) as refused:
        load_cluster(path)
    assert refused.value.problems == (
        f'{path}: constraint: given "h100\\n": allowed: one line, without spaces or line breaks around it',
    )
