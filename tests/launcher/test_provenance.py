import subprocess
from pathlib import Path

from launcher.provenance import changed_since, code_change, git_state


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_dirty_checkout_is_told_with_its_difference(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("old\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    clean = git_state(tmp_path)
    assert clean is not None
    assert (clean["sha"], clean["dirty"], clean["diff"]) == (git(tmp_path, "rev-parse", "HEAD"), False, "")

    (tmp_path / "code.py").write_text("new\n")
    (tmp_path / "extra.py").touch()
    dirty = git_state(tmp_path)
    assert dirty is not None
    assert dirty["dirty"] and "-old\n+new\n" in dirty["diff"] and dirty["untracked"] == ["extra.py"]


def test_a_checkout_without_a_commit_has_no_sha(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    state = git_state(tmp_path)
    assert state is not None and state["sha"] is None


def test_code_inside_somebody_elses_checkout_is_not_that_checkout(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "inside").mkdir()
    assert git_state(tmp_path / "inside") is None


def test_a_resume_tells_only_what_is_new() -> None:
    first = {"time": 1, "host": "a", "command_line": "x", "git": {"sha": "1"}, "packages": {"torch": "2"}}
    now = {**first, "time": 2, "git": {"sha": "2"}}
    assert changed_since(first, now) == {"time": 2, "host": "a", "command_line": "x", "git": {"sha": "2"}}


def test_only_other_code_is_worth_a_line() -> None:
    first = {"git": {"sha": "1" * 40, "diff": "", "untracked": []}}
    assert code_change(first, {"git": {"sha": "1" * 40, "diff": "", "untracked": ["notes"]}}) is None
    assert "1" * 12 in str(code_change(first, {"git": {"sha": "2" * 40, "diff": ""}}))
    assert "uncommitted" in str(code_change(first, {"git": {"sha": "1" * 40, "diff": "-a"}}))
    assert code_change({"git": None}, {"git": None}) is None
