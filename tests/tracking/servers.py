"""Real servers for tests: `mlflow server`, on sqlite or on PostgreSQL. Each is stopped by whoever started it."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

_START_SECONDS = 240  # most of it is imports; a busy machine takes its time


class MlflowServer:
    """Can be killed and started again on the same port and store."""

    def __init__(self, folder: Path, *, store: str | None = None) -> None:
        self._folder, self._store = folder, store or f"sqlite:///{folder / 'server.db'}"
        self._port = HeldPort()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port.number}"

    def start(self) -> None:
        command = [
            Path(sys.executable).with_name("mlflow"), "server", "--workers", "1", "--host", "127.0.0.1",
            "--port", self._port.number, "--backend-store-uri", self._store,
            "--artifacts-destination", self._folder / "artifacts",
        ]  # fmt: skip
        environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                cwd=self._folder,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._answers, what=f"{self.uri}; see {self._folder / 'server.log'}", seconds=_START_SECONDS)

    def kill(self) -> None:
        """At once, as a machine that loses power."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            until(lambda: not self._answers(), what="end of the server")

    def freeze(self) -> None:
        """It accepts connections and never answers, as a machine that thrashes; `kill` ends that too."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


class Postgres:
    """A database server of its own. PostgreSQL refuses to run as root: then another user runs it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="hierlm-postgres-"))  # pytest's own folders are closed to others
        self._port = HeldPort()
        self._user = _other_user() if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        shutil.chown(self._folder, self._user)

    @property
    def uri(self) -> str:
        return f"postgresql+{_driver()}://{self._user}@127.0.0.1:{self._port.number}/postgres"

    def start(self) -> None:
        self._run("initdb", "--pgdata", self._data, "--auth", "trust", "--no-sync")
        options = f"-p {self._port.number} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = self._folder / "log"
        self._run("pg_ctl", "start", "--pgdata", self._data, "--wait", "--log", log, "--options", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--pgdata", self._data, "--mode", "immediate")
        shutil.rmtree(self._folder)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _run(self, program: str, *arguments: object) -> None:
        path = postgres_program(program)
        assert path is not None
        as_user = ["runuser", "-u", self._user, "--"] if os.geteuid() == 0 else []
        command = [*as_user, path, *map(str, arguments)]
        subprocess.run(command, cwd="/", check=True, stdout=subprocess.DEVNULL, timeout=120)


def why_no_postgres() -> str:
    """Empty when PostgreSQL can be used here."""
    if postgres_program("initdb") is None:
        return "no PostgreSQL server here; Debian: apt-get install postgresql"
    if not _driver():
        return "no driver for PostgreSQL; pip install psycopg2-binary"
    return ""


def _driver() -> str:
    return next((name for name in ("psycopg", "psycopg2") if find_spec(name) is not None), "")


def postgres_program(name: str) -> str | None:
    """Debian keeps the server's programs out of PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return str(places[0]) if places else shutil.which(name)


class HeldPort:
    """A TCP port of 127.0.0.1 for a server that comes, goes and comes again: nobody else is given it meanwhile.

    The system deals out no port to which a socket is bound; one that never listens and allows the reuse of its address
    lets a server that allows it too (they all do) listen there.
    """

    def __init__(self) -> None:
        self._holder = socket.socket()
        self._holder.bind(("127.0.0.1", 0))
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.number = int(self._holder.getsockname()[1])


def _other_user() -> str:
    """`postgres` where the package made it, else `nobody`."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def until(condition: Callable[[], bool], *, what: str = "what the test expects", seconds: float = 300) -> None:
    """Wait for it, and fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)
