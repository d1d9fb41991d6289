"""What every architecture found in hierlm/models keeps, whatever its paper."""

import copy
import re
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hierlm import models
from hierlm.config.load import load_config
from hierlm.models.assembly import layer_specs, shared_weights
from hierlm.models.decoding import Decoder
from hierlm.nn.inputs import with_tokens
from hierlm.nn.layer import StepContext, build_layer, fold
from hierlm.nn.stream import Stream
from tests.models.zoo import CASES, IDS, TINY, VARYING_SHAPES, built, tiny_part, tokens

LENGTHS = [1, 2, 3, 4, 5, 7, 13]
every_case = pytest.mark.parametrize(("name", "index"), CASES, ids=IDS)
every_architecture = pytest.mark.parametrize("name", models.names())


@every_architecture
def test_has_a_tiny_config_and_says_where_it_comes_from(name):
    module = models.architecture(name)
    assert (TINY / f"{name}.yaml").exists()
    assert re.search(r"\d{4}\.\d{4,5}|\d{4}", module.PAPER)
    assert len(module.__doc__.splitlines()[0]) > 10


@every_architecture
def test_its_tiny_config_is_a_complete_run(name):
    config = load_config(TINY / f"{name}.yaml")
    assert config.name.replace("-", "_") == f"tiny_{name}"
    assert config.model.arch == name
    assert config.parallel.world_size == 1


@every_case
def test_runs_forwards_and_backwards_in_bf16(name, index):
    model = models.from_config({"model": tiny_part(name, index)}, seed=1).bfloat16().train()
    logits, _ = model(tokens(12))
    assert logits.dtype == torch.bfloat16
    logits.float().logsumexp(dim=-1).mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_configs_are_checked_without_torch():
    imports = "; ".join(f"import hierlm.models.{name}; torchless('{name}')" for name in models.names())
    code = "import sys\ndef torchless(name): assert 'torch' not in sys.modules, name\n" + imports
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@every_case
@pytest.mark.parametrize("length", LENGTHS)
def test_logits_have_one_row_for_each_token(name, index, length):
    logits, _ = built(name, index)(tokens(length))
    assert logits.shape == (2, length, 256)
    assert torch.isfinite(logits).all()


@every_case
@pytest.mark.parametrize("length", [2, 3, 4, 5, 13])
def test_no_logit_depends_on_a_later_token(name, index, length):
    model, text = built(name, index), tokens(length)
    with torch.no_grad():
        original, _ = model(text)
        for position in range(1, length):
            changed = torch.cat((text[:, :position], tokens(length - position, seed=position)), dim=1)
            tolerance = 1e-12 if (name, index) in VARYING_SHAPES else 0.0
            after = model(changed)[0][:, :position]
            torch.testing.assert_close(after, original[:, :position], rtol=tolerance, atol=tolerance)


@every_case
def test_every_past_token_matters_for_every_later_logit(name, index):
    length = 14
    model, text = built(name, index), tokens(length, batch=1)
    with torch.no_grad():
        original, _ = model(text)
        for position in range(length):
            changed = text.clone()
            changed[:, position] = (changed[:, position] + 101) % 256
            difference = (model(changed)[0] - original).abs().amax(dim=(0, 2))
            assert (difference[position:] > 0).all(), (position, difference)


@every_case
def test_logits_of_a_prefix_are_a_prefix_of_the_logits(name, index):
    model, text = built(name, index), tokens(13)
    with torch.no_grad():
        whole, _ = model(text)
        for length in range(1, 13):
            torch.testing.assert_close(model(text[:, :length])[0], whole[:, :length], rtol=1e-9, atol=1e-9)


@every_case
def test_the_rows_of_a_batch_do_not_touch(name, index):
    model, text = built(name, index), tokens(9)
    with torch.no_grad():
        together, _ = model(text)
        torch.testing.assert_close(model(text[1:])[0], together[1:], rtol=1e-9, atol=1e-9)


@every_case
def test_forward_is_the_fold_over_the_layer_list(name, index):
    model, text = built(name, index), tokens(10)
    pieces = list(model.layers)
    cut = len(pieces) // 2
    with torch.no_grad():
        memories = model.initial_state(text)
        stream, _ = fold(pieces[:cut], Stream.of(text), memories[:cut])
        stream, _ = fold(pieces[cut:], stream.with_levels(*(level.clone() for level in stream.levels)), memories[cut:])
        assert torch.equal(stream.output, model(text)[0])


@every_case
@pytest.mark.parametrize("training", [False, True])
def test_every_layer_passes_on_what_the_batch_says_and_what_was_reported_before(name, index, training):
    model, text = copy.deepcopy(built(name, index)).train(training), tokens(11)
    inputs = with_tokens(text, {"marks": torch.zeros(2)})
    stream = Stream.of(inputs).with_sum("before", torch.ones(2))
    before = stream.reports[0]
    for layer, memory in zip(model.layers, model.initial_state(text), strict=True):
        stream, _ = layer(stream, memory)
        assert stream.inputs is inputs and stream.reports[0] is before
        assert all(len(report.per_row) == 2 and torch.isfinite(report.per_row).all() for report in stream.reports)
    assert stream.output.shape == (2, 11, 256)


@every_case
def test_shapes_between_layers_follow_from_the_tokens_shape_and_what_layers_say_they_drew(name, index):
    """Stages of a pipeline agree on shapes only when one of these changes."""
    model, text = copy.deepcopy(built(name, index)), tokens(11)
    own = {switch: getattr(model.config, switch) for switch in model.config.train_switches()}
    found = {}
    for training, step in [(False, 0), *((True, step) for step in range(8))]:
        stream, shapes = Stream.of(text), []
        for layer in model.layers.train(training):
            layer.begin_step(StepContext(step, 5, own))
            stream, _ = layer(stream, layer.initial_memory(2, device=text.device, dtype=torch.float64))
            shapes.append([tuple(level.shape) for level in stream.levels])
        drawn = tuple(layer.drawn_shape for layer in model.layers)
        assert found.setdefault((training, drawn), shapes) == shapes
    assert len(found) == (3 if own.get("shorten_factors") else 2)


@every_case
def test_weights_depend_on_seed_and_place_only(name, index):
    config = built(name, index).config
    whole = models.from_config({"model": tiny_part(name, index)}, seed=5)
    last = len(whole.layers) - 2
    alone = build_layer(layer_specs(config)[last], seed=5, index=last)
    borrowed = {share.user_parameter for share in shared_weights(config) if share.user == last}
    for (path, ours), theirs in zip(alone.named_parameters(), whole.layers[last].parameters(), strict=True):
        assert path in borrowed or torch.equal(ours, theirs), path


@every_case
def test_tensor_plan_names_every_weight_exactly_once(name, index):
    plan = models.architecture(name).TENSOR_PLAN
    assert set(plan.values()) <= {"column", "row", "vocabulary", "replicate", "partial"}
    model = built(name, index)
    for path, _ in model.named_parameters(remove_duplicate=False):
        holder = path.rpartition(".")[0]
        matches = [pattern for pattern in plan if re.fullmatch(pattern, path) or re.fullmatch(pattern, holder)]
        assert len(matches) == 1, (path, matches)


@every_case
def test_number_of_parameters_is_the_closed_form(name, index):
    model = built(name, index)
    assert sum(p.numel() for p in model.parameters()) == models.architecture(name).num_parameters(model.config)


@every_case
def test_the_length_of_the_layer_list_is_known_without_building_it(name, index):
    architecture, config = models.architecture(name), built(name, index).config
    assert architecture.list_length(config) == len(architecture.layers(config))


@every_case
def test_every_weight_gets_a_gradient(name, index):
    model = copy.deepcopy(built(name, index)).train()
    text = tokens(12)
    stream, _ = fold(list(model.layers), Stream.of(text), model.initial_state(text))
    loss = torch.nn.functional.cross_entropy(stream.hidden.flatten(0, 1), tokens(12, seed=8).flatten())
    sum((r.weight * r.per_row.mean() for r in stream.reports if r.kind == "loss"), start=loss).backward()
    assert not [path for path, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]


@pytest.mark.parametrize(
    ("name", "index"),
    [
        pytest.param(*case, id=label, marks=[pytest.mark.slow] * (case[1] > 0))
        for case, label in zip(CASES, IDS, strict=True)
    ],
)
def test_learns_64_tokens_by_heart(name, index):
    model = models.from_config({"model": tiny_part(name, index)}, seed=1).train()
    text = tokens(17, batch=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(200):
        loss = torch.nn.functional.cross_entropy(model(text[:, :-1])[0].flatten(0, 1), text[:, 1:].flatten())
        if loss < 0.3:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError(f"loss {loss.item():.3f} nats after 200 updates")


@every_case
def test_state_continues_the_streams(name, index):
    """A second segment with the state of the first differs from one without it, and carries no graph."""
    model, text = built(name, index), tokens(8)
    _, state = model(text[:, :4])
    if state is None:
        pytest.skip("no recurrent memory")
    assert all(not t.requires_grad for memory in state if memory is not None for t in memory)
    with_state, _ = model(text[:, 4:], state)
    assert not torch.allclose(with_state, model(text[:, 4:])[0])


@every_case
@pytest.mark.parametrize("cut", [[1] * 13, [5, 1, 1, 6], [2, 3, 8], [13]])
def test_cached_generation_equals_the_full_forward(name, index, cut):
    model, text = built(name, index), tokens(13)
    decoder = Decoder(model)
    with torch.no_grad():
        whole, _ = model(text)
    parts = [decoder.extend(piece) for piece in text.split(cut, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-9, atol=1e-9)


@every_case
def test_cached_generation_costs_less(name, index):
    model, text = built(name, index), tokens(24)
    decoder = Decoder(model)
    if not decoder.is_cached:
        pytest.skip("runs over the whole text")
    decoder.extend(text[:, :-1])
    with FlopCounterMode(display=False) as step:
        decoder.extend(text[:, -1:])
    with FlopCounterMode(display=False) as full, torch.no_grad():
        model(text)
    keeps_hidden_states = any(memory is not None for memory in model.initial_state(text))  # and projects them again
    assert step.get_total_flops() < full.get_total_flops() / (1.5 if keeps_hidden_states else 8)
