"""Random deep models with random options on random layouts, through two phases, while lanes begin new streams alone.

A case is a pure function of its number.
"""

from collections.abc import Callable
from random import Random

from hierlm.config.load import load_config
from hierlm.errors import UserError
from hierlm.models import architecture, names
from hierlm.models.assembly import is_recurrent, layer_specs
from tests.distributed.runs import Layout, Run

Words = list[str]
Switches = dict[str, object]
Drawn = tuple[Words, Switches, Switches]
"""Overrides of the model, and its switches in the first and the second phase."""

DEGREES = [(1, 1, 4), (1, 2, 2), (2, 1, 2), (1, 1, 3), (1, 1, 2), (2, 2, 1), (4, 1, 1), (1, 4, 1), (2, 1, 1)]
BATCH_SIZES = (4, 8, 12)
LENGTHS = (8, 13, 16, 21, 24, 30)
SHARES_TOKENS = ("transformer", "top_down", "bottom_up")


def flag(random: Random, *fields: str) -> Words:
    return [f"model.{field}={str(random.random() < 0.5).lower()}" for field in fields]


def of(random: Random, **choices: object) -> Words:
    """One of the values of each field."""
    return [f"model.{field}={random.choice(list(values))}" for field, values in choices.items()]  # type: ignore[call-overload]


def transformer(random: Random) -> Drawn:
    words = of(random, num_layers=range(6, 13), positions=["rotary", "relative", "sinusoidal"])
    return [*words, *flag(random, "tie_embeddings"), *of(random, sandwich=[0, 0, 2])], {}, {}


def hourglass(random: Random) -> Drawn:
    """Of two levels, most often with a factor drawn at every step of a phase, or of three."""
    outer, inner, innermost = (random.randint(2, 4) for _ in range(3))
    words, factor = of(random, positions=["rotary", "relative"]), random.choice([2, 3, 4])
    if random.random() < 0.3:
        levels = [f"{outer}@1", f"{inner}@2", f"{innermost}@{2 * factor}", f"{inner}@2", f"{outer}@1"]
        words += of(random, shortening=["average", "linear", "attention"], upsampling=["repeat", "linear", "attention"])
        return [*words, f"model.hierarchy='{' '.join(levels)}'"], {}, {}
    words += of(random, shortening=["average", "attention"], upsampling=["repeat", "attention"])
    drawn: Switches = {"shorten_factors": str(random.choice([[2, 3], [3, 4], [2, 3, 4]]))}
    first, second = random.choice([(drawn, drawn), ({}, drawn), (drawn, {"shorten_factors": "[]"})])
    return [*words, f"model.hierarchy='{outer}@1 {2 * inner}@{factor} {outer}@1'"], first, second


def multi_scale(random: Random) -> Drawn:
    scales = random.choice([[1, 2], [1, 2, 4], [1, 3, 6]])
    per_scale = [random.randint(2, 5) for _ in scales]
    return [f"model.scales={scales}", f"model.layers_per_scale={per_scale}", *flag(random, "tie_embeddings")], {}, {}


def retina(random: Random) -> Drawn:
    return [*of(random, num_layers=range(6, 13)), *flag(random, "tie_embeddings")], {}, {}


def dynamic_pooling(random: Random) -> Drawn:
    depths = {f"{part}_layers": range(2, 5) for part in ("pre", "valley", "post")}
    words = of(random, **depths, positions=["rotary", "relative"], boundaries=["whitespace", "fixed"])
    return [*words, *of(random, max_groups=[9, 16]), "model.separators=[3,5,7,11,13,17,19,23,29]"], {}, {}


def transformer_xl(random: Random) -> Drawn:
    words = of(random, num_layers=range(6, 13), memory_length=[11, 30])
    words += flag(random, "tie_embeddings", "share_position_biases", "pre_norm")
    return words, {}, random.choice([{}, {"memory_length": random.choice([0, 5, 19, 40])}])


def skip_cross_head_xl(random: Random) -> Drawn:
    words, first, second = transformer_xl(random)
    words += of(random, layer_skip=["ramp", "uniform"], skip_probability=[0.3, 0.5], cross_head_probability=[0, 0, 0.3])
    return words, first, second | random.choice([{}, {"layer_skip": "off"}, {"skip_probability": 0.2}])


def recurrent_memory_transformer(random: Random) -> Drawn:
    words = of(random, num_layers=range(4, 9), segment_length=[5, 8], num_memory_tokens=[0, 2, 4])
    words += flag(random, "tie_embeddings", "share_position_biases", "pre_norm")
    depths: list[Switches] = [{"bptt_depth": depth} for depth in (0, 1, 3)]
    return words, random.choice(depths), random.choice([*depths, {"carry_memory": "false"}])


def lmu(random: Random) -> Drawn:
    words = of(random, num_layers=range(5, 13), memory_order=[6, 12], window_length=[16, 40], num_heads=[4])
    return [*words, *flag(random, "tie_embeddings", "carry_memory", "global_attention", "scale_scores")], {}, {}


def lstm(random: Random) -> Drawn:
    return of(random, num_layers=range(4, 13)), {}, {}


def hm_lstm(random: Random) -> Drawn:
    words = of(random, num_levels=[2, 3, 5], embedding_dim=[8, 16], output_dim=[16])
    return [*words, *flag(random, "layer_norm")], {}, random.choice([{}, {"slope": 1.5}])


ARCHITECTURES: dict[str, Callable[[Random], Drawn]] = {
    "transformer": transformer,
    "hourglass": hourglass,
    "top_down": multi_scale,
    "bottom_up": multi_scale,
    "retina": retina,
    "dynamic_pooling": dynamic_pooling,
    "transformer_xl": transformer_xl,
    "skip_cross_head_xl": skip_cross_head_xl,
    "recurrent_memory_transformer": recurrent_memory_transformer,
    "lmu": lmu,
    "lstm": lstm,
    "hm_lstm": hm_lstm,
}
assert set(ARCHITECTURES) == set(names())


def case(number: int) -> Run:
    """The architectures take turns; everything else is drawn, again where the config is refused."""
    random, arch = Random(number), list(ARCHITECTURES)[number % len(ARCHITECTURES)]
    while True:
        drawn = _drawn(random, arch)
        try:
            load_config(f"configs/tiny/{arch}.yaml", drawn.words)
        except UserError:
            continue
        return drawn


def _drawn(random: Random, arch: str) -> Run:
    model, *switches = ARCHITECTURES[arch](random)
    heads = [] if arch in ("lstm", "hm_lstm") else ["model.ffn_dim=24"]
    heads += [] if arch in ("lstm", "hm_lstm", "lmu") else ["model.num_heads=4"]
    sizes = [random.choice(BATCH_SIZES), random.choice(BATCH_SIZES)]
    steps = [random.randint(2, 3), 2]
    words = (
        *("model.vocab_size=97", "model.hidden_dim=16"),
        *heads,
        *model,
        *_dropouts(random, arch),
        _phases(random, switches, sizes=sizes, steps=steps),
        f"optim.gradient_clip={random.choice([0, 0.3])}",
        "optim.eps=0.01",  # why: tests/distributed/test_deep_layouts.py
        "train.precision=fp32",
    )
    degrees = random.choice(DEGREES)
    layout = Layout(*degrees, zero=random.choice([0, 1] if degrees[2] > 1 else [0, 1, 2, 3, 3]))
    neutral = (
        f"parallel.micro_batch_size={random.choice([1, 2, 4])}",
        f"parallel.activation_recompute={random.choice(['none', 'selective', 'full'])}",
        f"parallel.stage_cut={_cut(random, Run(arch, words, layout))}",
        *random.choice([[], [], ["train.loss_chunk_tokens=11"]]),
        *(["parallel.sequence_parallel=true"] if arch in SHARES_TOKENS and layout.tp > 1 else []),
    )
    return Run(arch, words, layout, neutral=neutral, restarts=_restarts(random, sizes, steps))


def _dropouts(random: Random, arch: str) -> Words:
    """Rates of every site that the architecture names, in half of the cases."""
    sites = sorted(name for name in architecture(arch).Config.model_fields if name.endswith("dropout"))
    return of(random, **{site: [0, 0.1, 0.3] for site in sites}) if random.random() < 0.5 else []


def _phases(random: Random, switches: list[Switches], *, sizes: list[int], steps: list[int]) -> str:
    lengths = [random.choice(LENGTHS), random.choice(LENGTHS)]
    trainable = random.choice(
        ["null", "['layers[.][0-9]*[13579]']", "['layers[.][1-9].*']", "['layers[.]0', '.*bias.*']"]
    )
    phases = []
    for index in range(2):
        model = ", ".join(f"{name}: {value}" for name, value in switches[index].items())
        more = ["learning_rate: {peak: 0.01, decay: constant}"]
        if index == 1:
            more = [f"trainable: {trainable}", f"optimizer_state: {random.choice(['keep', 'keep', 'reset'])}"]
        parts = [
            f"name: p{index}",
            f"duration: {{steps: {steps[index]}}}",
            f"sequence_length: {lengths[index]}",
            f"global_batch_size: {sizes[index]}",
            f"model: {{{model}}}",
            *more,
        ]
        phases.append("{" + ", ".join(parts) + "}")
    return f"phases=[{', '.join(phases)}]"


def _restarts(random: Random, sizes: list[int], steps: list[int]) -> dict[int, list[int]]:
    """Single lanes at any step; all where the number of rows changes, for then they are dealt anew."""
    found = {}
    for step in range(1, sum(steps)):
        rows = range(sizes[step >= steps[0]])
        found[step] = sorted(random.sample(rows, random.choice([0, 1, 2])))
        if step == steps[0] and (sizes[0] != sizes[1] or random.random() < 0.5):
            found[step] = list(rows)
    return found


def _cut(random: Random, run: Run) -> str:
    """By cost, uniform, or anywhere."""
    kind = random.choice(["cost", "uniform", "anywhere", "anywhere"])
    if run.layout.pp == 1 or kind != "anywhere":
        return "cost" if run.layout.pp == 1 else kind
    try:
        last = len(layer_specs(load_config(f"configs/tiny/{run.arch}.yaml", [*run.overrides]).model)) - 1
        return str(sorted(random.sample(range(1, last + 1), run.layout.pp - 1)))
    except (UserError, ValueError):  # refused later as well, and drawn again
        return "cost"


def restarts_alone(run: Run) -> bool:
    """Whether a lane with memory begins a new stream while others go on."""
    config = load_config(f"configs/tiny/{run.arch}.yaml", run.words)
    return is_recurrent(config.model) and any(len(rows) in (1, 2) for rows in run.restarts.values())
