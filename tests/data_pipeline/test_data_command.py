"""`hierlm data ...` as a user meets it: exit codes, one line per error, one JSON document with --json."""

import json
import os
import subprocess
import sys

import pytest

from launcher.cli import run
from tests.data_pipeline.making import folder_content

TEXT = "plain text, a few lines of it\n" * 500


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def data(capfd, *arguments):
    code = run(["data", *map(str, arguments)])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def test_prepare_verify_inspect_in_turn(tmp_path, source, capfd):
    code, out, _ = data(capfd, "prepare", "--input", source, "--output", tmp_path / "d")
    assert code == 0 and "train: 13,500 tokens" in out
    assert data(capfd, "verify", tmp_path / "d")[0] == 0
    code, out, _ = data(capfd, "inspect", tmp_path / "d")
    assert code == 0 and "plain text, a few lines" in out
    code, out, _ = data(capfd, "prepare", "--input", source, "--output", tmp_path / "d")
    assert code == 0 and "is there already" in out


def test_several_inputs_may_follow_one_option(tmp_path, source, capfd):
    other = tmp_path / "other.txt"
    other.write_text("more\n")
    data(capfd, "prepare", "--input", source, other, "--output", tmp_path / "a", "--splits", "none")
    data(capfd, "prepare", "--input", source, "--input", other, "--output", tmp_path / "b", "--splits", "none")
    assert (tmp_path / "a/train/shard-000000.tar").read_bytes() == (tmp_path / "b/train/shard-000000.tar").read_bytes()


def test_a_damaged_shard_is_named_with_exit_code_1(tmp_path, source, capfd):
    data(capfd, "prepare", "--input", source, "--output", tmp_path / "d")
    shard = tmp_path / "d/valid/shard-000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"plain", b"plane", 1))
    code, out, _ = data(capfd, "verify", tmp_path / "d")
    assert code == 1 and "valid/shard-000000.tar" in out and len(out.splitlines()) == 1


@pytest.mark.parametrize("verb", ["prepare", "verify", "inspect"])
def test_json_is_one_document_on_stdout(tmp_path, source, verb):
    arguments = ["prepare", "--input", str(source), "--output", str(tmp_path / "d")]
    command = [sys.executable, "-c", "from launcher.cli import main; main()", "data"]
    made = subprocess.run([*command, *arguments, "--json"], capture_output=True, text=True, check=True)
    result = made.stdout
    if verb != "prepare":
        result = subprocess.run(
            [*command, verb, str(tmp_path / "d"), "--json"], capture_output=True, text=True, check=True
        ).stdout
    assert json.loads(result)["path"] == str(tmp_path / "d")


def wrong_input(tmp_path, source):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8b\x08\x00 not really")
    good = ["--input", source]
    new = ["--output", tmp_path / "new"]
    return {
        "no such file": (["prepare", "--input", tmp_path / "absent.txt", *new], "absent.txt: no such file"),
        "empty file": (["prepare", "--input", tmp_path / "empty.txt", *new], "empty.txt: empty"),
        "broken archive": (["prepare", "--input", tmp_path / "broken.gz", *new], "broken.gz: cannot be read"),
        "output is a file": (["prepare", *good, "--output", source], "cannot be written there"),
        "splits": (["prepare", *good, *new, "--splits", "valid=2"], "--splits"),
        "tokenizer": (["prepare", *good, *new, "--tokenizer", "letters"], "letters"),
        "model without sentencepiece": (["prepare", *good, *new, "--tokenizer-model", source], "--tokenizer-model"),
        "not a model": (
            ["prepare", *good, *new, "--tokenizer", "sentencepiece", "--tokenizer-model", source],
            "not a sentencepiece model",
        ),
        "verify nothing": (["verify", tmp_path / "absent"], "no such dataset"),
        "inspect nothing": (["inspect", tmp_path / "absent"], "no such dataset"),
    }


@pytest.mark.parametrize("case", [
    "no such file", "empty file", "broken archive", "output is a file", "splits", "tokenizer",
    "model without sentencepiece", "not a model", "verify nothing", "inspect nothing",
])  # fmt: skip
def test_wrong_input_is_exit_code_2_and_one_line(tmp_path, source, capfd, case):
    arguments, said = wrong_input(tmp_path, source)[case]
    code, out, err = data(capfd, *arguments)
    errors = [line for line in err.splitlines() if not line.startswith("data: ")]
    assert code == 2 and out == "" and len(errors) == 1 and said in errors[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write and read everything")
def test_folders_and_files_without_permission_are_named(tmp_path, source, capfd):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = data(capfd, "prepare", "--input", source, "--output", tmp_path / "locked" / "d")
    assert code == 2 and "cannot be written there" in err
    source.chmod(0)
    code, _, err = data(capfd, "prepare", "--input", source, "--output", tmp_path / "d")
    assert code == 2 and "text.txt: cannot be read" in err


def outcome(*arguments, shell_input: str = "", env=None):
    """(exit code, stdout, stderr) of a process of its own, for what depends on its streams."""
    command = [sys.executable, "-c", "from launcher.cli import main; main()", "data", *arguments]
    done = subprocess.run(command, input=shell_input.encode(), capture_output=True, check=False, env=env)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.slow
def test_a_name_that_is_no_utf_8_is_prepared_shown_and_inspected(tmp_path, source):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    os.rename(source, folder + b"/\xff.txt")
    output = os.fsencode(tmp_path) + b"/out\xe9"
    code, out, err = outcome("prepare", "--input", folder, "--output", output)
    assert code == 0 and "train: 13,500 tokens" in out, err
    assert outcome("prepare", "--input", folder, "--output", output)[:2] == (0, out.replace("written", SAME))
    code, out, err = outcome("inspect", output, "--json")
    assert code == 0 and json.loads(out)["made"]["inputs"][0]["given"] == [f"{tmp_path}/caf\\udce9"], err


SAME = "is there already, made of the same inputs with the same options"


@pytest.mark.slow
def test_streams_are_read_by_pipe_or_refused_in_one_line(tmp_path, source):
    for given in ("-", "/dev/stdin"):
        code, _, err = outcome("prepare", "--input", given, "--output", tmp_path / "d", shell_input=TEXT)
        assert code == 2 and err.count("\n") == 1 and "--input 'pipe:COMMAND'" in err
    words = f"{sys.executable} -c 'from launcher.cli import main; main()' data prepare --output {tmp_path}/d --input"
    done = subprocess.run(["bash", "-c", f"{words} <(cat {source})"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--input 'pipe:COMMAND'" in done.stderr
    assert outcome("prepare", "--input", f"pipe:cat {source}", "--output", tmp_path / "d")[0] == 0


def test_what_was_met_on_the_way_to_the_files_is_told(tmp_path, source, capfd):
    (tmp_path / "folder").mkdir()
    source.rename(tmp_path / "folder/text.txt")
    (tmp_path / "folder/gone.txt").symlink_to(tmp_path / "absent")
    (tmp_path / "folder/twice.txt").symlink_to(tmp_path / "folder/text.txt")
    code, out, _ = data(capfd, "prepare", "--input", tmp_path / "folder", "--output", tmp_path / "d")
    assert code == 0 and "links to nothing: 1, first: " in out and "files reached twice: 1, first: " in out
    assert json.loads((tmp_path / "d/dataset.json").read_text())["made"]["met"]["links to nothing"]["count"] == 1


def test_one_file_in_two_splits_is_refused(tmp_path, source, capfd):
    (tmp_path / "link.txt").symlink_to(source)
    words = ["prepare", "--input", source, "--output", tmp_path / "d", "--splits", f"valid={tmp_path / 'link.txt'}"]
    code, out, err = data(capfd, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"link.txt (as {source}) is in train and in valid; leave it out of one" in err


@pytest.mark.parametrize("size", ["99999999999", "2147483648", "-1", "5000000"])
def test_an_absurd_vocabulary_is_refused_in_one_line(tmp_path, source, capfd, size):
    words = ["prepare", "--input", source, "--output", tmp_path / "d", "--tokenizer", "sentencepiece"]
    code, out, err = data(capfd, *words, f"--vocab-size={size}")
    lines = [line for line in err.splitlines() if not line.startswith("data: ")]
    assert (code, out, len(lines)) == (2, "", 1) and "--vocab-size" in lines[0]


def test_stdlib_is_several_megabytes_of_this_pythons_own_text(tmp_path, capfd):
    code, out, _ = data(capfd, "stdlib", "--output", tmp_path / "d", "--json")
    made = json.loads(out)
    assert code == 0 and made["totals"]["source_bytes"] > 3_000_000
    assert made["splits"]["valid"]["tokens"] == round(0.05 * made["totals"]["tokens"])
    assert b"site-packages" not in b"".join(folder_content(tmp_path / "d").values())[:10_000]
