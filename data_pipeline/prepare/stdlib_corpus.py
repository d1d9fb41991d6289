"""The text every machine has: the sources of the running Python's own standard library."""

import hashlib
import sysconfig
from pathlib import Path

from data_pipeline.prepare.sources import SourceFile

# Not the library's own text, or text about nothing: installed packages, generated tables, tests of the parser.
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3"})


def stdlib_files() -> tuple[SourceFile, ...]:
    """Every .py file, in an order that mixes topics and is the same for the same Python: by hash of its name."""
    root = Path(sysconfig.get_path("stdlib"))
    names = (path.relative_to(root) for path in root.rglob("*.py"))
    kept = (str(name) for name in names if not _LEFT_OUT.intersection(name.parts))
    return tuple(
        SourceFile(str(root / name), name) for name in sorted(kept, key=_shuffle_key) if _is_source(root / name)
    )


def _is_source(path: Path) -> bool:
    """Neither empty nor written by the build, with this machine's folders in it."""
    return path.stat().st_size > 0 and not path.name.startswith("_sysconfigdata")


def _shuffle_key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
