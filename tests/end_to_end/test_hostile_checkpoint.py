"""A checkpoint that holds a program is refused in one line by every verb that reads one, and the program does not run.

Its manifest is that of the hostile file: no checksum gives it away.
"""

import json
import tarfile
from pathlib import Path

import pytest

from hierlm.checkpoint.layout import step_dir
from hierlm.checkpoint.manifest import read_manifest, write_manifest
from hierlm.durable import hash_file
from tests.checkpoint.hostile import ATTACKS, write_archive
from tests.conftest import hierlm
from tests.end_to_end.test_runs_of_0_1 import FIXTURE, SAVED_AT

WEIGHTS, STATE, MEMORY = (
    "engine/mp_rank_00_model_states.pt",
    "engine/zero_pp_rank_1_mp_rank_00_optim_states.pt",
    "memory/rank-0001.pt",
)
VERBS = {
    "verify": (("checkpoint", "verify", "runs/xl"), WEIGHTS, "by_system"),
    "digest": (("checkpoint", "digest", "runs/xl"), STATE, "by_eval"),
    "export": (("checkpoint", "export", "runs/xl", "--output", "exported"), WEIGHTS, "by_load_from_bytes"),
    "reshape": (("checkpoint", "reshape", "runs/xl", "--zero-stage", "2"), STATE, "by_partial"),
    "eval": (("eval", "runs/xl"), WEIGHTS, "by_attributes"),
    "generate": (("generate", "runs/xl", "--prompt", "x"), MEMORY, "by_stack_global"),
    "train": (("train", "xl.yaml"), WEIGHTS, "by_load_from_bytes"),
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A directory as 0.1 left it."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def plant(checkpoint: Path, file: str, content: bytes) -> None:
    """Put a program in a file's place, and a manifest that knows it."""
    write_archive(checkpoint / file, content)
    manifest = read_manifest(checkpoint)
    files = {**manifest.files, file: hash_file(checkpoint / file)}
    write_manifest(checkpoint, manifest.model_copy(update={"files": files}))


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_it_is_refused_and_does_not_run(verb: str, old: Path) -> None:
    words, file, attack = VERBS[verb]
    checkpoint = step_dir(old / "runs" / "xl" / "checkpoints", SAVED_AT)
    plant(checkpoint, file, ATTACKS[attack](old / "mark"))
    done = hierlm(*words, cwd=old, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "nothing of it was run" in line]
    assert len(said) == (2 if verb == "train" else 1) and file in said[0], done  # a run passes it over, and finds none
    assert done.returncode == (1 if verb == "verify" else 2) and "Traceback" not in done.stdout + done.stderr
    assert not (old / "mark").exists()


@pytest.mark.slow
@pytest.mark.distributed
def test_an_older_checkpoint_is_taken_instead(old: Path) -> None:
    checkpoints = old / "runs" / "xl" / "checkpoints"
    newer = step_dir(checkpoints, SAVED_AT + 1)
    (checkpoints / newer.name).mkdir()
    for path in [path for path in step_dir(checkpoints, SAVED_AT).rglob("*") if path.is_file()]:
        copy = newer / path.relative_to(step_dir(checkpoints, SAVED_AT))
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    write_manifest(newer, read_manifest(newer).model_copy(update={"step": SAVED_AT + 1}))
    plant(newer, WEIGHTS, ATTACKS["by_system"](old / "mark"))
    document = json.loads(hierlm("checkpoint", "digest", "runs/xl", "--json", cwd=old).stdout)
    assert document["step"] == SAVED_AT and not (old / "mark").exists()
