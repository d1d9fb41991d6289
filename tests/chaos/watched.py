"""A pytest plugin (`-p tests.chaos.watched`): counts the inputs of a fuzz and watches what reading each of them does.

HIERLM_FUZZ_TOLD names the file that hears of it; HIERLM_FUZZ_STARTS says that the test itself starts other programs.
"""

import json
import os
import resource
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from tests.data_pipeline.hostile import WRITING, AuditWatch

CALLS = {
    # of tests that are no hypothesis ones: (module, function that takes one input, how many it says it took)
    "tests.config.test_yaml_door": ("taken_or_refused", None),
    "tests.config.test_fuzzed": ("load_config", None),
    "tests.data_pipeline.test_hostile_files": ("require_harmless", "count"),
    "tests.checkpoint.test_wrong_content": ("run_ranks", 5),
}
STARTING = ("os.exec", "os.posix_spawn", "os.system", "os.fork", "os.forkpty", "subprocess.Popen")
CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


MOST_MEMORY = 10 << 30
"""Of address space, of every process: torch and its threads reserve some without using it."""


class Watch(AuditWatch):
    """What Python is seen to start, and to change outside the folders of the tests, while an input is read."""

    def __init__(self, folders: tuple[str, ...], *, may_start: bool) -> None:
        self._folders, self._may_start = folders, may_start
        super().__init__()

    def notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTING and not self._may_start:
            self.seen.append(f"{event} {arguments!r}"[:200])
        flags = arguments[2] if event == "open" else 0
        writes = event in WRITING or (isinstance(flags, int) and flags & CHANGING)
        if writes and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            is_nameless = event == "open" and os.path.isdir(path)  # how a temporary file without a name is made
            if not (path.startswith(self._folders) or is_nameless or "__pycache__" in path):
                self.seen.append(f"{event} {path}"[:200])


class Watched:
    """Every call of what takes one input."""

    def __init__(self, watch: Watch) -> None:
        self.count, self._watch = 0, watch

    def around(self, function: Callable[..., Any], counts: str | int | None = None) -> Callable[..., Any]:
        @wraps(function)
        def counted(*arguments: Any, **named: Any) -> Any:
            if counts is not None:  # a process of its own takes them, and has a watch of its own
                self.count += named[counts] if isinstance(counts, str) else arguments[counts]
                return function(*arguments, **named)
            self.count += 1
            with self._watch.on():
                return function(*arguments, **named)

        return counted


def pytest_configure(config: pytest.Config) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    base = os.path.realpath(str(config._tmp_path_factory.getbasetemp()))  # type: ignore[attr-defined]
    folders = (base, "/dev/shm/tmp", "/dev/null", "/tmp/tmp")
    watched = Watched(Watch(folders, may_start=bool(os.environ.get("HIERLM_FUZZ_STARTS"))))
    config.stash[_WATCHED] = watched
    done: set[int] = set()
    for item in items:
        test: Any = getattr(item, "obj", None)
        if hasattr(test, "hypothesis"):
            if id(test.hypothesis) not in done:
                test.hypothesis.inner_test = watched.around(test.hypothesis.inner_test)
                done.add(id(test.hypothesis))
        elif (module := item.module).__name__ in CALLS and id(module) not in done:  # type: ignore[attr-defined]
            name, counts = CALLS[module.__name__]
            setattr(module, name, watched.around(getattr(module, name), counts))
            done.add(id(module))


_WATCHED = pytest.StashKey[Watched]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    watched = session.config.stash.get(_WATCHED, None)
    if watched is not None:
        told = {"count": watched.count, "seen": Counter(watched._watch.seen)}
        Path(os.environ["HIERLM_FUZZ_TOLD"]).write_text(json.dumps(told), encoding="utf-8")
