"""The training step beside its neighbours at equal shapes, and beside what the machine's matrix products could do.

    python -m tests.benchmarks.bench_training [part ...]     (parts: see PARTS)

Both sides of a ratio run in turn in one process, on one thread, and the median over the rounds counts. Time is
processor time, so that other work on the machine matters little. x-transformers and hourglass-transformer-pytorch are
measured when installed (`pip install '.[bench]'`). The exit code is 1 where a claim is missed.
"""

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_pipeline.config import SourceConfig
from data_pipeline.read.loader import Request, TrainRows
from data_pipeline.read.prefetch import Prefetcher
from hierlm import models
from hierlm.config.load import load_config
from hierlm.costs.flops import flops_per_token
from hierlm.models.assembly import LanguageModel
from hierlm.nn.attention.positions import rotate, token_positions
from hierlm.nn.attention.relative_attention import RelativeAttention, Seen, Sight
from hierlm.nn.recurrent.legendre_memory import LegendreMemory
from hierlm.parallel.process import start_processes
from hierlm.phases.timeline import Timeline
from hierlm.train.cpu_memory import keep_freed_blocks
from hierlm.train.determinism import set_determinism
from tests.benchmarks.ratio import ROUNDS, ROWS, VOCAB, Claim, Step, both_passes, built, rows, times_faster
from tests.conftest import ROOT, prepare_tiny_dataset

WIDTH, HEADS, LAYERS, LENGTH = 512, 8, 6, 512
SIZES = {"vocab_size": VOCAB, "hidden_dim": WIDTH, "num_heads": HEADS, "ffn_dim": 4 * WIDTH}
TRANSFORMER = {"arch": "transformer", "num_layers": LAYERS, **SIZES}
HOURGLASS = {"arch": "hourglass", "hierarchy": "2@1 8@3 2@1", **SIZES}


# The step path beside a plain loop


class PlainBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.output = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.ffn_norm = nn.LayerNorm(WIDTH)
        self.expand, self.contract = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        q, k, v = (p.unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in self.qkv(self.norm(x)).chunk(3, dim=-1))
        heads = F.scaled_dot_product_attention(rotate(q, positions), rotate(k, positions), v, is_causal=True)
        x = x + self.output(heads.transpose(1, 2).flatten(2))
        return x + self.contract(F.gelu(self.expand(self.ffn_norm(x))))


class PlainTransformer(nn.Module):
    """The same mathematics as the architecture `transformer`, written in one piece."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(PlainBlock() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x, positions = self.tokens(tokens), token_positions(tokens.shape[1], device=tokens.device)
        for block in self.blocks:
            x = block(x, positions)
        logits: Tensor = self.head(self.norm(x))
        return logits


def training_step(model: nn.Module) -> Step:
    """Loss, backward, clipping, fused AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    both = both_passes(model, length=LENGTH)

    def step() -> None:
        both()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def step_path(folder: Path) -> Step:
    """What `hierlm train` does in a step: the next batch of the loader, and `Engine.train_step`, deterministic."""
    from hierlm.parallel.engine import Engine

    sizes = [f"model.{name}={value}" for name, value in TRANSFORMER.items()]
    shape = [f"phases.0.sequence_length={LENGTH}", f"phases.0.global_batch_size={ROWS}"]
    dataset = prepare_tiny_dataset(folder)
    config = load_config(ROOT / "configs" / "tiny" / "transformer.yaml", [*sizes, *shape, f"data.path={dataset}"])
    engine, moment = Engine(config, process=start_processes()), Timeline(config.phases).at(0)
    batches = Prefetcher(TrainRows([SourceConfig(path=str(dataset))], seed=1), _requests(), 2)

    def step() -> None:
        set_determinism(config.train.deterministic)
        batch = next(batches)
        engine.train_step(batch.tokens, batch.targets, moment=moment, starts=batch.starts)
        torch.use_deterministic_algorithms(False)  # the other side does without

    return step


def _requests() -> Iterator[Request]:
    for step in count():
        yield Request(LENGTH, 0, step * ROWS, range(ROWS), None, None)


def beside_a_plain_loop() -> Iterator[Claim]:
    with tempfile.TemporaryDirectory(prefix="bench-training-") as folder:
        whole, ours = step_path(Path(folder)), "step of `hierlm train`, loader included"
        for what, model in {"a plain loop": PlainTransformer(), "one of the same model": built(TRANSFORMER)}.items():
            ratio = times_faster(whole, training_step(model), rounds=2 * ROUNDS)
            yield Claim(f"{ours}, over {what} ({shape_text()})", ratio, 0.97)


def shape_text() -> str:
    return f"D={WIDTH}, {LAYERS} layers, T={LENGTH}, fp32"


# Other libraries


def beside_x_transformers() -> Iterator[Claim]:
    from x_transformers import Decoder, TransformerWrapper

    rotary = {"rotary_pos_emb": True, "rotary_emb_dim": WIDTH // HEADS}  # all of a head, as ours; else half of it
    attends = Decoder(dim=WIDTH, depth=LAYERS, heads=HEADS, attn_flash=True, **rotary)
    theirs = TransformerWrapper(num_tokens=VOCAB, max_seq_len=LENGTH, attn_layers=attends)
    ratio = times_faster(both_passes(built(TRANSFORMER), length=LENGTH), both_passes(theirs, length=LENGTH))
    yield Claim(f"transformer over x-transformers ({shape_text()})", ratio, 1.0)


def beside_lucidrains_hourglass() -> Iterator[Claim]:
    from hourglass_transformer_pytorch import HourglassTransformerLM

    length = 1026  # their padding does not run: a multiple of the shorten factor
    theirs = HourglassTransformerLM(
        num_tokens=VOCAB, dim=WIDTH, max_seq_len=length, heads=HEADS, depth=(2, 8, 2), shorten_factor=3
    )
    ours = both_passes(built(HOURGLASS), length=length, num_rows=1)
    ratio = times_faster(ours, both_passes(theirs, length=length, num_rows=1))
    yield Claim(f"hourglass 2@1 8@3 2@1 over hourglass-transformer-pytorch (D={WIDTH}, T={length})", ratio, 1.3)


# One model of the project beside another


def hourglass_beside_transformer() -> Iterator[Claim]:
    length, twelve = 2048, TRANSFORMER | {"num_layers": 12}
    sides = [built(HOURGLASS), built(twelve)]
    ratio = times_faster(*(both_passes(model, length=length, num_rows=1) for model in sides), rounds=2 * ROUNDS)
    costs = [flops_per_token(model.config, length) for model in sides]
    by_flops = costs[1] / costs[0]
    yield Claim(f"hourglass 2@1 8@3 2@1 over a transformer of 12 layers (T={length})", ratio, 1.6)
    within = 1 - abs(ratio / by_flops - 1)
    yield Claim(f"  that ratio beside the ratio of FLOPs, {by_flops:.2f}: agreement", within, 0.85, unit="")


class ShiftedAttention(RelativeAttention):
    """The scores of 1901.02860 term by term, as its published code has them: two products, a shift, a softmax."""

    def _look(self, x: Tensor, seen: Seen, sight: Sight) -> Tensor:
        one, queries = x.new_ones(1, 1, 1), self._split(self.query(x))
        content = torch.einsum("bhik,bhjk->bhij", queries + self._split(self.content_bias(one)), seen.keys)
        placed = queries + self._split(self.position_bias(one))
        position = torch.einsum("bhik,xhjk->bhij", placed, seen.waves)
        scores = (content + _shifted(position)) / math.sqrt(self.head_dim)
        shares = scores.masked_fill(~sight.visible, float("-inf")).softmax(dim=-1)
        heads = torch.einsum("bhij,bhjk->bhik", shares, seen.values)
        output: Tensor = self.output(heads.transpose(1, 2).flatten(2))
        return output


def _shifted(scores: Tensor) -> Tensor:
    """[B, H, T, U]: row i moved left by T - 1 - i; appendix B."""
    batch, heads, num_queries, num_keys = scores.shape
    padded = torch.cat((scores.new_zeros(batch, heads, num_queries, 1), scores), dim=-1)
    return padded.view(batch, heads, num_keys + 1, num_queries)[:, :, 1:].view_as(scores)


def transformer_xl_beside_shift() -> Iterator[Claim]:
    part = {"arch": "transformer_xl", "num_layers": 2, "memory_length": LENGTH, **SIZES}
    ours, theirs = built(part), built(part)
    for module in theirs.modules():
        if type(module) is RelativeAttention:
            module.__class__ = ShiftedAttention
    tokens, _ = rows(LENGTH, num_rows=ROWS)
    with torch.no_grad():  # a second segment, so that the memory is full
        (_, state), (_, same_state) = ours(tokens), theirs(tokens)
        assert torch.allclose(ours(tokens, state)[0], theirs(tokens, same_state)[0], atol=1e-4)
    steps = [both_passes(_With(model, state), length=LENGTH) for model in (ours, theirs)]
    yield Claim(
        f"transformer_xl over a plain relative shift (T = memory = {LENGTH}, 2 layers)", times_faster(*steps), 1.3
    )


class _With(nn.Module):
    def __init__(self, model: LanguageModel, state: Any) -> None:
        super().__init__()
        self.model, self._state = model, state

    def forward(self, tokens: Tensor) -> Any:
        return self.model(tokens, self._state)


def lmu_beside_recurrence() -> Iterator[Claim]:
    num_steps, width, order, readout_rows = 1024, 64, 64, 4
    memory = LegendreMemory(order=order, window_length=num_steps, chunk_length=None)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, num_steps, width, generator=generator).requires_grad_()
    readout = torch.randn(readout_rows, order, generator=generator).requires_grad_()

    def at_once() -> Tensor:
        return memory.read(x, readout, state=None)

    def step_by_step() -> Tensor:
        state, found = x.new_zeros(4, order, width), []
        for now in x.unbind(1):
            state = memory.step(now, state)
            found.append(readout @ state)
        return torch.stack(found, dim=1)

    assert torch.allclose(at_once(), step_by_step(), atol=1e-3)
    ratio = times_faster(lambda: at_once().sum().backward(), lambda: step_by_step().sum().backward())
    yield Claim(f"lmu's convolution over its recurrence step by step (n={num_steps})", ratio, 10.0)


def lmu_beside_transformer() -> Iterator[Claim]:
    """Equal width and about equal weights; order 100, reduced to a tenth of it as in 2110.02402."""
    width = {"vocab_size": VOCAB, "hidden_dim": 64, "num_heads": 1, "num_layers": 2}
    memory = {"memory_order": 100, "reduced_order": 10, "window_length": 1024}
    sides = [{"arch": "lmu", "ffn_dim": 128, **memory, **width}, {"arch": "transformer", "ffn_dim": 256, **width}]
    for length, bound in ((4096, None), (8192, 1.0), (16384, 1.0)):
        steps = [both_passes(built(part), length=length, num_rows=1) for part in sides]
        yield Claim(f"lmu of order 100 over a transformer of equal width (n={length})", times_faster(*steps), bound)


# The machine


def share_of_peak() -> Iterator[Claim]:
    """Every architecture at this width: FLOPs a second of a whole step over those of products of square matrices.

    Claimed is the share of the faster library's rate. That of `torch.mm`, which plain PyTorch's layers are made of, is
    told as well: on some AMD processors it is half of oneDNN's, which uses instructions that torch's BLAS does not.
    """
    for arch in models.names():
        part = _widened(arch)
        if part is None:
            continue
        model = built(part)
        step = training_step(model)
        flops = flops_per_token(model.config, LENGTH) * ROWS * LENGTH
        shares = {
            library: 100 * (flops / PRODUCT_FLOPS) * times_faster(step, products, rounds=5)
            for library, products in _products().items()
        }
        for library, share in shares.items():
            bound = 70.0 if arch == "transformer" and share == min(shares.values()) else None
            yield Claim(f"{arch}: share of the rate of {library} ({_layers_text(model)})", share, bound, unit="%")


PRODUCT_SIZE, NUM_PRODUCTS = 1024, 8
PRODUCT_FLOPS = 2.0 * PRODUCT_SIZE**3 * NUM_PRODUCTS


def _products() -> dict[str, Step]:
    """Products of square matrices by each of the libraries that torch multiplies with."""
    left, right = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE) for _ in range(2))
    ways: dict[str, Step] = {"torch.mm": partial(torch.mm, left, right)}
    if torch.backends.mkldnn.is_available():
        ways["oneDNN"] = partial(F.linear, left.to_mkldnn(), right.to_mkldnn())

    def several(way: Step) -> Step:
        return lambda: [way() for _ in range(NUM_PRODUCTS)]

    return {library: several(way) for library, way in ways.items()}


def _widened(arch: str) -> dict[str, Any] | None:
    """The tiny config of an architecture at the width of this benchmark."""
    path = ROOT / "configs" / "tiny" / f"{arch}.yaml"
    fields = models.architecture(arch).Config.model_fields
    wider = [f"model.{name}={value}" for name, value in SIZES.items() if name in fields]
    config = load_config(path, wider) if path.exists() else None
    return None if config is None else config.model.model_dump(mode="json")


def _layers_text(model: LanguageModel) -> str:
    return f"D={model.config.hidden_dim}, {len(model.layers)} layers in its list, T={LENGTH}"


PARTS: dict[str, Callable[[], Iterator[Claim]]] = {
    "plain_loop": beside_a_plain_loop,
    "x_transformers": beside_x_transformers,
    "hourglass_package": beside_lucidrains_hourglass,
    "hourglass": hourglass_beside_transformer,
    "transformer_xl": transformer_xl_beside_shift,
    "lmu": lmu_beside_recurrence,
    "lmu_transformer": lmu_beside_transformer,
    "peak": share_of_peak,
}


def main(parts: list[str]) -> None:
    """Each part in a process of its own: what one leaves to the allocator would change the next one's figures."""
    names = parts or list(PARTS)
    if len(names) == 1:
        sys.exit(int(not measured(names[0])))
    load = os.getloadavg()[0]
    print(
        f"one thread, {torch.backends.cpu.get_cpu_capability()}, load of the machine {load:.1f} of {os.cpu_count()}",
        flush=True,
    )
    command = [sys.executable, "-m", "tests.benchmarks.bench_training"]
    codes = [subprocess.run([*command, name], check=False).returncode for name in names]
    sys.exit(max(codes))


def measured(name: str) -> bool:
    """Print a part's lines; whether all its claims hold."""
    torch.set_num_threads(1)
    keep_freed_blocks()  # as `hierlm train` does; both sides have it
    try:
        claims = []
        for claim in PARTS[name]():
            print(claim.line(), flush=True)
            claims.append(claim)
    except ModuleNotFoundError as error:
        print(f"{name} is not measured: {error}")
        return True
    return all(claim.holds for claim in claims)


if __name__ == "__main__":
    main(sys.argv[1:])
