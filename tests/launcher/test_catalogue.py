import json

import pytest

from hierlm import models
from launcher.catalogue import describe
from launcher.cli import run


@pytest.mark.parametrize("name", models.names())
def test_every_architecture_has_a_summary_a_paper_and_described_types(name: str) -> None:
    architecture = describe(name)
    assert architecture["summary"] and architecture["paper"]
    fields = {field["name"]: field for field in architecture["fields"]}
    assert fields["vocab_size"]["default"] == 256 and "arch" not in fields
    assert all(field["type"] and "object at" not in field["type"] for field in fields.values())
    switches = {name for name, field in fields.items() if field["is_train_switch"]}
    assert switches == models.architecture(name).Config.train_switches()


def test_the_list_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == models.names()
    assert run(["models"]) == 0
    text = capsys.readouterr().out
    assert all(f"{name}\n" in text for name in models.names())
    assert "optim.name=lion: Lion: the sign of an interpolated momentum" in text and "Fields: betas" in text
    assert "learning_rate.decay=wsd: Warm-up, stable, decay" in text and "cooldown_fraction, cooldown" in text
    assert run(["models", "transformer"]) == 0
    assert "num_layers (int, required): " in capsys.readouterr().out
