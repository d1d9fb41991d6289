"""Devices and fabrics are files, a user's own as ours; a wrong name or file is refused at once."""

from pathlib import Path

import pytest
import yaml

from hierlm.errors import UserError
from hierlm.plan import devices
from hierlm.plan.device_file import SHIPPED, read_device, shipped_names
from tests.architecture.test_light_verbs import imported_by
from tests.conftest import ROOT, hierlm

TINY = ROOT / "configs/tiny/transformer.yaml"


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_device_is_named_by_its_file_and_gives_the_source_of_every_figure(name: str) -> None:
    assert devices.device(name, processes=8).name == name
    lines = (SHIPPED / f"{name}.yaml").read_text().splitlines()
    figures = [line for line in lines if any(c.isdigit() for c in line.partition("#")[0].partition(":")[2])]
    assert len(figures) >= 10
    assert all("#" in line for line in figures if not line.startswith(("name", "told_as", "source"))), figures


def test_one_line_names_the_known_devices_and_the_nearest() -> None:
    with pytest.raises(UserError, match=r"--device: given h10, allowed: a100, .*cpu, h100, .*nearest: h100") as found:
        devices.check("h10")
    assert len(found.value.problems) == 1


@pytest.mark.parametrize("device", ["h10", "no-such.yaml"])
def test_a_wrong_device_is_refused_before_torch_is_imported(device: str, tmp_path: Path) -> None:
    assert imported_by("plan", TINY, "--device", device, cwd=tmp_path) == (2, [])


def test_a_file_of_ones_own_is_a_device(tmp_path: Path) -> None:
    own = yaml.safe_load((SHIPPED / "h100.yaml").read_text())
    own |= {"name": "mine", "memory_bytes": 40e9, "fabric": {"ports": 2, "port": 12.5e9}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(own))
    found = devices.device(str(path), processes=64)
    assert (found.name, found.memory_bytes, found.node_ports) == ("mine", 40 * 10**9, 2)


def test_everything_wrong_with_a_file_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nbf16_flop: 1.0e+12\nmemory_bytes: -1\nfabric: {ports: 0, port: 1.0e+9}\n")
    with pytest.raises(UserError) as found:
        read_device(path)
    told = "\n".join(found.value.problems)
    assert all(words in told for words in ("nearest: bf16_flops", "memory_bytes: given -1", "fabric.ports", "node"))


@pytest.mark.slow
def test_the_verb_takes_a_file(tmp_path: Path) -> None:
    done = hierlm("plan", TINY, "--device", SHIPPED / "a100-40gb.yaml", cwd=tmp_path)
    assert "a100-40gb" in done.stdout
