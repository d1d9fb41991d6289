from pathlib import Path

import pytest
import yaml

from hierlm.errors import UserError
from launcher.cluster import ClusterProfile, load_cluster
from tests.conftest import ROOT


def test_every_cluster_file_of_the_repository_loads() -> None:
    files = sorted(ROOT.glob("configs/clusters/*.yaml"))
    assert {path.stem for path in files} >= {"generic", "cpu", "gpu"}
    for path in files:
        load_cluster(path)


def test_the_generic_file_shows_every_key_and_the_real_defaults() -> None:
    path = ROOT / "configs" / "clusters" / "generic.yaml"
    assert load_cluster(path) == ClusterProfile()
    text = path.read_text()
    assert [name for name in ClusterProfile.model_fields if f"{name}:" not in text] == []


def test_everything_wrong_with_a_file_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    wrong = {
        "partitoin": "x",
        "cpus_per_task": "8",
        "time_limit": "soon",
        "account": "two words",
        "environment": {"a-b": "c"},
    }
    path.write_text(
        yaml.safe_dump({**wrong, "sbatch_lines": ["a\nb"], "container": {"runtime": "docker", "image": "x"}})
    )
    with pytest.raises(UserError) as caught:
        load_cluster(path)
    text = "\n".join(caught.value.problems)
    for part in (
        f"{path}: partitoin: unknown key",
        "nearest: partition",
        'cpus_per_task: given "8", allowed: an integer',
        "HH:MM:SS",
        "account: ",
        "a-b: not a name",
        'sbatch_lines.0: given "a\\nb": allowed: one line without control characters; character 2',
        "container.runtime",
    ):
        assert part in text
    assert len(caught.value.problems) == 7


@pytest.mark.parametrize(
    ("text", "minutes"), [("00:30:00", 30), ("24:00:00", 1440), ("2-01:30:00", 2970), ("4:30", 270)]
)
def test_time_limits_are_whole_minutes(text: str, minutes: int) -> None:
    assert ClusterProfile(time_limit=text).time_limit_minutes == minutes


def test_a_time_needs_no_quotes_and_a_number_is_none(tmp_path: Path) -> None:
    """By YAML 1.1 it was a number of seconds."""
    path = tmp_path / "site.yaml"
    path.write_text("time_limit: 24:00:00\n")
    assert load_cluster(path).time_limit_minutes == 1440
    path.write_text("time_limit: 86400\n")
    with pytest.raises(UserError, match=r"time_limit: given 86400, allowed: a text \(in quotes"):
        load_cluster(path)
