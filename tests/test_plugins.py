"""A choice from outside is found as one of ours is, remembered by the run, and refused in one line where wrong."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hierlm import models, plugins
from hierlm.config.load import dump_config, load_config, plain_config
from hierlm.config.same_run import changes_since
from hierlm.discovery import module_named, names_in
from hierlm.errors import UserError
from launcher.cli import run
from launcher.prepare_run import prepare_run
from tests.config.making import mapping
from tests.conftest import ROOT, hierlm

PAGE = (ROOT / "docs" / "plugins.md").read_text()
EXAMPLE, TRACKER = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
DEVICE = """
PLUGIN = "device.toy"
def device(*, processes):
    from dataclasses import replace
    from hierlm.plan.devices.h100 import H100
    return replace(H100, name="toy", memory_bytes=10**9)
"""


@pytest.fixture(autouse=True)
def new_process() -> Iterator[None]:
    plugins.forget_all()
    yield
    plugins.forget_all()


@pytest.fixture
def example(tmp_path: Path) -> Path:
    return written(tmp_path / "running_mean.py", EXAMPLE)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def config_of(folder: Path, **parts: object) -> Path:
    part = {"arch": "running_mean", "num_layers": 2, "hidden_dim": 16}
    return written(folder / "mine.yaml", yaml.safe_dump({**mapping(), "model": part, **parts}))


def problems(raised: pytest.ExceptionInfo[UserError]) -> str:
    assert all("\n" not in problem for problem in raised.value.problems)
    return "; ".join(raised.value.problems)


def test_a_file_given_is_a_choice_like_ours(example: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="running_mean"):
        load_config(config_of(tmp_path))
    plugins.give_files([str(example)])
    assert "running_mean" in models.names()
    config = load_config(config_of(tmp_path))
    assert config.model.hidden_dim == 16
    logits, _ = models.from_config({"model": config.model.model_dump()})(tokens())
    assert logits.shape == (1, 3, 256)


def tokens():
    import torch

    return torch.tensor([[1, 2, 3]])


def test_a_run_remembers_its_plugins_where_the_command_line_names_none(example: Path, tmp_path: Path) -> None:
    frozen = tmp_path / "config.yaml"
    plugins.give_files([str(example)])
    frozen.write_text(dump_config(load_config(config_of(tmp_path))))
    plugins.forget_all()
    config = load_config(frozen)
    assert [record.file for record in config.plugins] == [str(example)]
    assert models.architecture("running_mean").Config is type(config.model)
    plugins.forget_all()
    assert models.from_config(frozen).config.hidden_dim == 16


def test_a_config_may_name_the_file_alone(example: Path, tmp_path: Path) -> None:
    config = load_config(config_of(tmp_path, plugins=[str(example)]))
    assert config.plugins[0].name == "architecture.running_mean"
    assert len(config.plugins[0].sha256) == 64


def test_a_changed_file_is_told_once_and_a_lost_one_is_an_error(
    example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = written(tmp_path / "config.yaml", dump_config(load_config(config_of(tmp_path, plugins=[str(example)]))))
    plugins.forget_all()
    written(example, EXAMPLE + "\n# edited\n")
    load_config(frozen)
    load_config(frozen)
    assert capsys.readouterr().err.count("architecture.running_mean has changed") == 1
    moved = example.rename(tmp_path / "moved.py")
    plugins.forget_all()
    with pytest.raises(UserError) as raised:
        load_config(frozen)
    assert re.search(r"plugins: .*running_mean.py: no plugin there .*--plugin FILE", problems(raised))
    plugins.give_files([str(moved)])
    assert load_config(frozen).plugins[0].file == str(moved)


def test_a_checkpoint_of_a_plugin_that_lies_elsewhere_now_is_of_the_same_run(example: Path, tmp_path: Path) -> None:
    """Its config names the old place, and must not bring back what lies there."""
    saved = plain_config(load_config(config_of(tmp_path, plugins=[str(example)])))
    moved = written(tmp_path / "moved.py", EXAMPLE + "\nIS_MOVED = True\n")
    plugins.forget_all()
    longer = {**mapping()["phases"][1], "duration": {"tokens": 9000}}
    now = load_config(config_of(tmp_path, plugins=[str(moved)], phases=[mapping()["phases"][0], longer]))
    assert changes_since(saved, saved_fingerprint="another", saved_seed=1, config=now) == []
    assert models.architecture("running_mean").IS_MOVED
    example.unlink()
    assert load_config(written(tmp_path / "saved.yaml", yaml.safe_dump(saved))).plugins[0].file == str(moved)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", 'no line `PLUGIN = "KIND.NAME"`'),
        ("PLUGIN = 'flavour.mint'\n", "given 'flavour.mint', allowed: KIND.NAME"),
        ("PLUGIN = 'architecture.hourglass'\n", "'hourglass' is the name of the architecture that comes with hierlm"),
        ("PLUGIN = 'tracker.mlflow'\n", "'mlflow' is the name of the tracker that comes with hierlm"),
        ("PLUGIN = 'architecture.mine'\nConfig = 1\n", "does not define layers, list_length, num_parameters, TENSOR"),
        ("PLUGIN = 'tracker.mine'\nimport no_such_module\n", r"wrong.py:2: cannot be loaded: ModuleNotFoundError"),
        ("PLUGIN = \n", "not a Python file: SyntaxError"),
    ],
)
def test_what_is_no_plugin_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        plugins.give_files([str(written(tmp_path / "wrong.py", text))])
    assert re.search(said.replace("(", r"\("), problems(raised)), problems(raised)


def test_two_files_of_one_name_are_refused(example: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        plugins.give_files([str(example), str(written(tmp_path / "other.py", EXAMPLE))])
    assert "'architecture.running_mean' is the name of" in problems(raised)


def test_a_wrong_file_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--plugin", str(tmp_path / "missing.py")]) == 2
    assert "--plugin" in (line := capsys.readouterr().err) and line.count("\n") == 1


def test_verbs_take_the_option(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "running_mean", "--plugin", str(example), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "running_mean"


def test_a_submission_freezes_the_plugins_for_its_job(example: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """What every rank reads is the run directory's config alone."""
    monkeypatch.chdir(tmp_path)
    assert run(["submit", str(config_of(tmp_path)), "--plugin", example.name, "--dry-run"]) == 0
    assert "hierlm" in capsys.readouterr().out
    prepared = prepare_run(load_config(config_of(tmp_path)), command_line=["hierlm"])
    frozen = yaml.safe_load(prepared.run_dir.config.read_text())
    assert frozen["plugins"] == [{**frozen["plugins"][0], "name": "architecture.running_mean", "file": str(example)}]


def test_another_version_of_an_installed_plugin_is_told(package: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(config_of(tmp_path))
    prepare_run(config, command_line=["hierlm"])
    (tmp_path / "runs" / "run" / "provenance.json").write_text(
        (tmp_path / "runs" / "run" / "provenance.json")
        .read_text()
        .replace(plugins.installed()["architecture.running_mean"]["sha256"], "0" * 64)
    )
    again = prepare_run(config, command_line=["hierlm"])
    assert any("another version of the installed architecture.running_mean" in line for line in again.messages)


def test_a_device_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hierlm.plan import devices

    plugins.give_files([str(written(tmp_path / "toy.py", DEVICE))])
    assert devices.device("toy", processes=2).memory_bytes == 10**9
    assert devices.names() == ["a100", "a100-40gb", "cpu", "h100", "h200", "toy"]
    with pytest.raises(UserError, match="--device: given b100, allowed: a100, a100-40gb, cpu, h100, h200, toy"):
        devices.device("b100", processes=1)


def test_an_unknown_tracker_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    raw = {**mapping(), "tracking": {"kind": "mlfow"}}
    with pytest.raises(UserError, match=r'tracking\.kind: given "mlfow", allowed: mlflow, none, nearest: mlflow'):
        load_config(written(tmp_path / "c.yaml", yaml.safe_dump(raw)))


def test_a_tracker_of_ones_own_gets_every_record(tmp_path: Path) -> None:
    from hierlm.run_dir import RunDir
    from hierlm.tracking.config import TrackingConfig
    from hierlm.tracking.open import open_tracker

    plugins.give_files([str(written(tmp_path / "csv_tracker.py", TRACKER))])
    config = TrackingConfig(kind="csv", uri="anything")
    tracker = open_tracker(config, RunDir(tmp_path), run_config_flat={}, attempt=1, report=print)
    tracker.metrics({"loss": 2.5}, step=3)
    tracker.finish("FINISHED")
    assert (tmp_path / "losses.csv").read_text() == "3,2.5\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with an entry point, as an installer leaves it."""
    written(tmp_path / "outside_models.py", EXAMPLE)
    info = tmp_path / "outside_models-1.0.dist-info"
    info.mkdir()
    written(info / "METADATA", "Metadata-Version: 2.1\nName: outside-models\nVersion: 1.0\n")
    written(info / "entry_points.txt", "[hierlm.plugins]\narchitecture.running_mean = outside_models\n")
    monkeypatch.syspath_prepend(tmp_path)
    return info / "entry_points.txt"


def test_an_installed_package_needs_no_option(package: Path, tmp_path: Path) -> None:
    assert "running_mean" in names_in("hierlm.models")
    assert module_named("running_mean", package="hierlm.models").PLUGIN == "architecture.running_mean"
    config = load_config(config_of(tmp_path))
    assert config.plugins == ()
    assert list(plugins.installed()) == ["architecture.running_mean"]


def test_an_installed_package_may_not_take_a_name_of_ours(package: Path) -> None:
    written(package, "[hierlm.plugins]\narchitecture.lstm = outside_models\n")
    with pytest.raises(UserError, match=r"entry point 'architecture\.lstm' of outside-models: 'lstm' is the name of"):
        models.names()


def test_a_file_may_not_have_the_name_of_an_installed_one(package: Path, example: Path) -> None:
    with pytest.raises(UserError, match="is the name of an installed plugin"):
        plugins.give_files([str(example)])


def test_installed_packages_are_not_scanned_for_a_name_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", None)  # whoever calls it fails
    load_config(written(tmp_path / "c.yaml", yaml.safe_dump(mapping())))
    with pytest.raises(TypeError):
        models.names()


def test_the_example_reads_without_torch(example: Path) -> None:
    code = "import sys; from hierlm import plugins; plugins.give_files(sys.argv[1:]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(example)], check=True)


@pytest.mark.slow
def test_a_run_with_plugins_resumes_and_is_evaluated_on_every_rank(tiny_dataset: Path, tmp_path: Path) -> None:
    """The command line names them once; ranks, a second start and other verbs find them in the run directory."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    files = [written(folder / "mean.py", EXAMPLE), written(folder / "csv_tracker.py", TRACKER)]
    part = {"arch": "running_mean", "num_layers": 2, "hidden_dim": 16}
    raw = yaml.safe_load((ROOT / "configs" / "tiny" / "transformer.yaml").read_text())
    raw |= {"name": "mine", "model": part, "data": {"path": str(tiny_dataset)}, "tracking": {"kind": "csv"}}
    raw["phases"][0] |= {
        "duration": {"steps": 2},
        "sequence_length": 16,
        "learning_rate": {"peak": 0.01, "final": 0.001},
    }
    config = written(tmp_path / "mine.yaml", yaml.safe_dump(raw))
    options = [word for file in files for word in ("--plugin", file)]
    hierlm("train", config, "parallel.pipeline_parallel_degree=2", *options, cwd=tmp_path)
    written(files[0], EXAMPLE + "\n# edited\n")
    longer = hierlm("train", "runs/mine/config.yaml", "phases.0.duration.steps=3", cwd=tmp_path)
    assert "architecture.running_mean has changed" in longer.stderr
    assert (tmp_path / "runs/mine/losses.csv").read_text().count("\n") >= 3
    assert "loss" in hierlm("eval", "runs/mine", cwd=tmp_path).stdout
    hierlm("checkpoint", "export", "runs/mine", "--output", "exported", cwd=tmp_path)
    assert models.load(tmp_path / "exported").config.num_layers == 2
