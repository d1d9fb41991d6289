"""Skip Cross-head Transformer-XL: skipping retains memory, draws are keyed, evaluation ignores both."""

import pytest
import torch

from hierlm.models import skip_cross_head_xl
from hierlm.models.assembly import LanguageModel
from hierlm.models.skip_cross_head_xl import Config
from hierlm.nn.layer import StepContext
from hierlm.nn.memory.cross_head_block import skip_probability
from hierlm.nn.memory.slots import SegmentMemory
from hierlm.nn.stream import Stream
from tests.models.perturbed import perturbed

SMALL = {"vocab_size": 50, "num_layers": 4, "hidden_dim": 16, "num_heads": 4, "ffn_dim": 24, "memory_length": 6}
OFF = {"layer_skip": "off", "skip_probability": 0.5, "cross_head_probability": 0.0}
RAMP = OFF | {"layer_skip": "ramp"}


def _model(arch: str = "skip_cross_head_xl", **fields: object) -> LanguageModel:
    return perturbed({"arch": arch, "tie_embeddings": False} | SMALL | fields)


def _text(length: int) -> torch.Tensor:
    return torch.randint(50, (2, length), generator=torch.Generator().manual_seed(2))


def _begin(model: LanguageModel, step: int, switches: dict[str, object], seed: int = 0) -> list[bool]:
    for layer in model.layers:
        layer.begin_step(StepContext(step=step, seed=seed, switches=switches))
    return [getattr(layer, "is_skipped", False) for layer in model.layers[1:-1]]


def _run(model: LanguageModel, text: torch.Tensor, switches: dict[str, object]) -> torch.Tensor:
    state, parts = None, []
    for step, piece in enumerate(text.split(4, dim=1)):
        _begin(model, step, switches)
        logits, state = model(piece, state)
        parts.append(logits)
    return torch.cat(parts, dim=1)


def test_the_published_size():
    config = Config(
        arch="skip_cross_head_xl",
        vocab_size=267_735,
        num_layers=15,
        hidden_dim=624,
        num_heads=16,
        ffn_dim=2496,
        memory_length=512,
        cutoffs=(20_000, 40_000, 200_000),
        div_value=4,
    )
    assert skip_cross_head_xl.num_parameters(config) == 122_215_992
    with torch.device("meta"):
        model = LanguageModel(config, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 122_215_992


@pytest.mark.parametrize(("num_layers", "mean"), [(12, 0.191), (15, 0.2022), (16, 0.205)])
def test_the_ramp_spares_the_first_and_the_last_layer(num_layers, mean):
    ramp = [
        skip_probability(kind="ramp", probability=0.5, layer=layer, num_layers=num_layers)
        for layer in range(num_layers)
    ]
    assert ramp[0] == ramp[-1] == 0
    assert ramp[1:-1] == [0.5 * layer / num_layers for layer in range(1, num_layers - 1)]
    assert abs(sum(ramp) / num_layers - mean) < 1e-3
    assert skip_probability(kind="uniform", probability=0.5, layer=num_layers - 1, num_layers=num_layers) == 0.5


def test_executed_layers_are_as_many_as_the_ramp_says():
    model = _model(num_layers=4)
    num_draws = 3000
    expected = [skip_probability(kind="ramp", probability=0.5, layer=layer, num_layers=4) for layer in range(4)]
    skipped = sum(sum(_begin(model, step, RAMP)) for step in range(num_draws))
    deviation = (num_draws * sum(p * (1 - p) for p in expected)) ** 0.5
    assert abs(skipped - num_draws * sum(expected)) < 3 * deviation


def test_draws_depend_on_seed_layer_and_step_only():
    one, other = _model(), _model()
    switches = RAMP | {"cross_head_probability": 0.5}
    torch.rand(17)
    sequence = [_begin(one, step, switches) for step in range(40)]
    orders = [layer.head_order for layer in one.layers[1:-1]]
    assert _begin(other, 7, switches) == sequence[7]
    _begin(other, 39, switches)
    for order, layer in zip(orders, other.layers[1:-1], strict=True):
        assert (order is None) == (layer.head_order is None)
        assert order is None or torch.equal(order, layer.head_order)
    assert sequence != [_begin(one, step, switches, seed=1) for step in range(40)]
    assert len({tuple(step) for step in sequence}) > 3


def test_switching_one_chance_off_moves_no_other_draw():
    model = _model()
    both, crossed = RAMP | {"cross_head_probability": 1.0}, OFF | {"cross_head_probability": 1.0}
    for step in range(20):
        _begin(model, step, both)
        orders = [layer.head_order for layer in model.layers[1:-1]]
        _begin(model, step, crossed)
        assert all(torch.equal(a, layer.head_order) for a, layer in zip(orders, model.layers[1:-1], strict=True))


def test_a_skipped_layer_passes_the_stream_and_retains_its_memory_bit_for_bit():
    model, text = _model().train(), _text(8)
    _begin(model, 0, OFF)
    _, state = model(text[:, :4])
    model.layers[2].is_skipped = True
    logits, after = model(text[:, 4:], state)
    before, now = SegmentMemory(*state[2]), SegmentMemory(*after[2])
    assert torch.equal(before.hidden, now.hidden) and torch.equal(before.positions, now.positions)
    assert now.clock.tolist() == [8, 8]
    assert not torch.equal(SegmentMemory(*state[1]).hidden, SegmentMemory(*after[1]).hidden)
    hidden = torch.randn(2, 4, 16, dtype=torch.float64)
    assert torch.equal(model.layers[2](Stream((hidden,)), state[2])[0].hidden, hidden)
    logits.sum().backward()
    shared = ("content_bias", "position_bias")
    own = [p for name, p in model.layers[2].named_parameters() if not any(bias in name for bias in shared)]
    assert all(p.grad is not None and not p.grad.any() for p in own)
    assert all(p.grad.any() for p in model.layers[3].parameters())


@torch.no_grad()
def test_retained_memory_has_its_true_distance():
    """Skipped at steps 3 and 4: at step 5 the memory lies 3 segments back, at step 6 one again."""
    model, text = _model(memory_length=4).train(), _text(28)
    state, gaps = None, []
    for step, piece in enumerate(text.split(4, dim=1)):
        _begin(model, step, OFF)
        model.layers[2].is_skipped = step in (3, 4)
        gaps.append(None if state is None else int(SegmentMemory(*state[2]).ages.min() + 3) // 4)
        _, state = model(piece, state)
    assert gaps == [None, 1, 1, 1, 2, 3, 1]


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_with_every_chance_off_it_is_transformer_xl(training):
    ours, text = _model().train(training), _text(20)
    theirs = _model("transformer_xl").train(training)
    torch.testing.assert_close(_run(ours, text, OFF), _run(theirs, text, {"memory_length": 6}), rtol=0, atol=1e-12)


@torch.no_grad()
def test_evaluation_runs_every_layer_and_permutes_nothing():
    model, text = _model().eval(), _text(20)
    everything = {"layer_skip": "uniform", "skip_probability": 0.9, "cross_head_probability": 1.0}
    assert torch.equal(_run(model, text, everything), _run(model, text, OFF))
    model.train()
    assert (_run(model, text, everything) - _run(model, text, OFF)).abs().max() > 1e-3


@torch.no_grad()
def test_a_phase_in_which_no_draw_hits_equals_the_phase_without():
    model, text = _model().train(), _text(20)
    never = RAMP | {"skip_probability": 0.0}
    assert torch.equal(_run(model, text, never), _run(model, text, OFF))


@torch.no_grad()
@pytest.mark.parametrize("switches", [RAMP | {"cross_head_probability": 1.0}, OFF | {"cross_head_probability": 1.0}])
def test_training_is_causal_whatever_is_drawn(switches):
    model, text = _model().train(), _text(16)
    original = _run(model, text, switches)
    for position in (1, 6, 11):
        changed = text.clone()
        changed[:, position] = (changed[:, position] + 1) % 50
        assert torch.equal(_run(model, changed, switches)[:, :position], original[:, :position])


@torch.no_grad()
def test_left_out_shift_breaks_the_recurrence():
    text = _text(16)
    shifted, unshifted = _model(memory_length=16), _model(memory_length=16, relative_shift=False)
    for model, holds in ((shifted, True), (unshifted, False)):
        model.train()
        whole = model(text)[0]
        by_segments = _run(model, text, OFF | {"memory_length": 16})
        assert ((whole - by_segments).abs().max() < 1e-10) == holds


def test_heads_of_other_ranks_cannot_be_crossed():
    config = Config.model_validate({"arch": "skip_cross_head_xl"} | SMALL)
    assert "cross_head_probability" in skip_cross_head_xl.refusals(config)["tensor_parallel_degree"]
    assert skip_cross_head_xl.refusals(config.model_copy(update={"cross_head_probability": 0.0})) == {}


def test_what_a_phase_may_change():
    assert Config.train_switches() >= {
        "layer_skip",
        "skip_probability",
        "cross_head_probability",
        "memory_length",
        "dropout",
    }
