"""The planned peak is within a tenth of what torch's allocator holds in real steps; all sizes: `make bench`."""

import pytest

from tests.benchmarks.bench_plan import BOUND, overrides
from tests.plan.measuring import measured_peaks, predicted_peaks

CASES = [
    ("transformer", "narrow", "pp2", ()),
    ("hourglass", "narrow", "dp2 zero1", ()),
    ("transformer_xl", "long", "tp2", ()),
    ("transformer_xl", "vocabulary", "pp2", ("model.tie_embeddings=true", "model.vocab_size=16384")),
    ("transformer", "wide", "dp1", ("parallel.micro_batch_size=1",)),
    ("hourglass", "long", "dp1", ("parallel.activation_recompute=selective",)),
    ("hourglass", "long", "dp1", ("parallel.activation_recompute=full",)),
    ("transformer", "vocabulary", "tp2", ("train.loss_chunk_tokens=64",)),
    ("transformer", "long", "tp2", ("model.num_layers=8", "parallel.sequence_parallel=true")),
]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("arch", "size", "layout", "more"), CASES)
def test_the_plan_is_within_a_tenth_of_the_measured_peak(arch, size, layout, more):
    path, words = f"configs/tiny/{arch}.yaml", [*overrides(size, layout), *more]
    measured = measured_peaks(path, words)
    print(arch, size, layout, more, predicted_peaks(path, words), measured)
    assert predicted_peaks(path, words) == pytest.approx(measured, rel=BOUND)
