"""Blocks of today train the same on every layout: few heads of keys, norms of heads, capped logits, z-loss.

Losses, gradient norms, what is told beside them, and the first moment of every parameter.
"""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from hierlm.config.load import load_config
from hierlm.models.assembly import LanguageModel
from tests.distributed.runs import Layout, Outcome, Run, Together, compared, differences
from tests.distributed.spawn import run_ranks

SIZES = (
    "model.preset=modern",
    "model.vocab_size=97",
    "model.hidden_dim=32",
    "model.num_heads=4",
    "model.ffn_dim=48",
    "model.num_kv_heads=2",
    "model.logit_soft_cap=5",
    "model.z_loss=0.01",
)
SETTINGS = (
    "phases=[{name: all, duration: {steps: 3}, sequence_length: 21, global_batch_size: 8,"
    " learning_rate: {peak: 0.01, decay: constant}}]",
    "optim.gradient_clip=0.5",
    "optim.eps=0.01",  # see test_deep_layouts.py
    "train.precision=fp32",
)
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "transformer": ("transformer", ("model.num_layers=6", "model.tie_embeddings=true")),
    "transformer-biased": ("transformer", ("model.num_layers=3", "model.biases=true", "model.norm=layer")),
    "transformer-reordered": ("transformer", ("model.num_layers=6", "model.block_order=reordered")),
    "hourglass": ("hourglass", ("model.hierarchy='2@1 2@2 2@1'",)),
    "dynamic_pooling": (
        "dynamic_pooling",
        ("model.pre_layers=2", "model.valley_layers=2", "model.post_layers=2", "model.max_groups=16"),
    ),
    "top_down": ("top_down", ("model.scales=[1,2,4]", "model.layers_per_scale=[2,2,2]")),
    "bottom_up": ("bottom_up", ("model.scales=[1,2,4]", "model.layers_per_scale=[2,2,2]")),
    "retina": ("retina", ("model.num_layers=4",)),
    "lmu": ("lmu", ("model.num_layers=3", "model.global_attention=true")),
}
TP2, TP4, STAGES = Layout(1, 2, 1), Layout(1, 4, 1), Layout(1, 2, 2, zero=1)
ZERO_1, ZERO_3, SHARED_ZERO = Layout(2, 1, 1, zero=1), Layout(2, 1, 1, zero=3), Layout(2, 4, 1, zero=1)
TOKENS = "parallel.sequence_parallel=true"
RECOMPUTED = "parallel.activation_recompute={}"
QUICK: list[tuple[str, Layout, tuple[str, ...]]] = [
    ("transformer", TP4, (TOKENS,)),
    ("hourglass", TP4, (RECOMPUTED.format("selective"),)),
    ("transformer", STAGES, ("train.loss_chunk_tokens=13",)),
    ("transformer-biased", ZERO_3, ()),
]
EVERYWHERE: list[tuple[Layout, tuple[str, ...]]] = [
    (TP2, ()),
    (TP2, (TOKENS, RECOMPUTED.format("full"))),
    (TP4, ()),
    (TP4, (TOKENS,)),
    (STAGES, ()),
    (ZERO_1, ()),
    (ZERO_3, (RECOMPUTED.format("selective"),)),
    (SHARED_ZERO, ()),
]


def run_of(name: str, layout: Layout, neutral: tuple[str, ...]) -> Run:
    arch, own = MODELS[name]
    words = (*SIZES, *own, *SETTINGS)
    if arch == "lmu":
        words = tuple(word for word in words if "rotary" not in word)
    return Run(arch, words, layout, neutral=("parallel.micro_batch_size=2", *neutral))


def cases() -> list[Any]:
    found = [pytest.param(*case, marks=pytest.mark.slow, id=f"{case[0]}-{case[1]}") for case in QUICK]
    for name in MODELS:
        for layout, neutral in EVERYWHERE:
            if (name, layout, neutral) in QUICK:
                continue
            if TOKENS in neutral and name in ("transformer-reordered", "retina", "lmu"):
                continue  # blocks whose norm comes first, and without memory
            label = f"{name}-{layout}-{len(neutral)}-{TOKENS in neutral}"
            found.append(pytest.param(name, layout, neutral, marks=pytest.mark.matrix, id=label))
    return found


@pytest.fixture(scope="module")
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Together:
    """What is about to be compared, by run."""
    runs: dict[str, Run] = {}
    for params in compared(request):
        run = run_of(params["name"], params["layout"], params["neutral"])
        runs |= {str(run): run, str(run.alone): run.alone}
    return Together(runs, tmp_path_factory.mktemp("runs"))


@pytest.mark.distributed
@pytest.mark.parametrize(("name", "layout", "neutral"), cases())
def test_layouts_make_no_difference(name: str, layout: Layout, neutral: tuple[str, ...], trained: Together) -> None:
    run = run_of(name, layout, neutral)
    found, expected = trained[str(run)], trained[str(run.alone)]
    assert isinstance(expected, Outcome), expected
    assert "loss/z" in expected.reported[0], "the loss on log-sums is told apart"
    wrong = differences(found, expected)
    assert not wrong, "\n".join([str(run), *wrong])


# Beside Llama itself

LLAMA = (
    *SIZES[1:5],
    "model.num_layers=3",
    "model.num_kv_heads=1",
    "model.norm=rms",
    "model.feed_forward=swiglu",
    "model.biases=false",
    "train.precision=fp32",
)


def nats_of_slices(words: list[str], tokens: list[list[int]]) -> list[list[float]]:
    """On one rank: what the engine says of rows of tokens."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    engine = Engine(load_config("configs/tiny/transformer.yaml", words), process=start_processes())
    rows = torch.tensor(tokens)
    return engine.evaluate(rows[:, :-1], rows[:, 1:]).tolist()


@pytest.mark.slow
@pytest.mark.distributed
@torch.no_grad()
def test_two_ranks_that_share_one_head_of_keys_are_llama() -> None:
    transformers = pytest.importorskip("transformers")
    from tests.models.test_parity import their_name

    config = load_config("configs/tiny/transformer.yaml", LLAMA)
    sizes: Any = config.model
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.hidden_dim,
            intermediate_size=sizes.ffn_dim,
            num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_heads,
            num_key_value_heads=1,
            rms_norm_eps=sizes.norm_epsilon,
            attn_implementation="eager",
        )
    ).eval()
    ours = LanguageModel(config.model, seed=config.seed).state_dict()
    theirs.load_state_dict({their_name(name, order="pre"): value for name, value in ours.items()}, strict=True)
    tokens = torch.randint(97, (2, 20), generator=torch.Generator().manual_seed(1))
    logits = theirs(tokens[:, :-1]).logits
    expected = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(2, -1)
    for found in run_ranks(nats_of_slices, 2, [*LLAMA, "parallel.tensor_parallel_degree=2"], tokens.tolist()):
        torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-5, atol=1e-5)
