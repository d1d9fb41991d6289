"""What hierlm/optim/README.md shows can be written into a config, and it tells of every choice there is."""

import re
from pathlib import Path

import yaml

from hierlm.config.load import load_config
from hierlm.optim import optimizers
from hierlm.phases import schedules
from tests.config.making import mapping, write
from tests.conftest import ROOT

README = (ROOT / "hierlm/optim/README.md").read_text()


def test_its_examples_are_valid(tmp_path: Path) -> None:
    chosen, rules = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL))
    first = mapping()["phases"][0]
    config = load_config(
        write(tmp_path, {"optim": chosen["optim"], "phases": [{**first, **chosen["phases"][0]}]}),
        ["phases.0.duration.steps=10000"],
    )
    assert (config.optim.name, config.phases[0].learning_rate.decay) == ("lion", "wsd")
    assert len(load_config(write(tmp_path, rules)).optim.rules) == 2


def test_it_tells_of_every_optimizer_and_schedule() -> None:
    for name in (*optimizers.names(), *schedules.names()):
        assert re.search(rf"^\| `{name}`", README, flags=re.MULTILINE), name
