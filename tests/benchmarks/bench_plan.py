"""Planned against measured peak of tensor bytes: 3 models x 4 sizes x 4 layouts, real steps on CPU processes."""

import sys

from tests.plan.measuring import LAYOUTS, measured_peaks, predicted_peaks

ARCHS = ("transformer", "hourglass", "transformer_xl")
SIZES = {  # width, rows, tokens, vocabulary
    "narrow": (128, 8, 128, 256),
    "wide": (384, 4, 64, 256),
    "long": (128, 4, 384, 256),
    "vocabulary": (128, 8, 96, 4096),
}
BOUND = 0.10
MIB = 2**20


def overrides(size: str, layout: str) -> list[str]:
    """Of one row of the table."""
    width, rows, tokens, vocabulary = SIZES[size]
    return [
        "data.path=unused",
        "train.precision=fp32",
        f"model.hidden_dim={width}",
        f"model.ffn_dim={4 * width}",
        f"model.vocab_size={vocabulary}",
        f"phases.0.sequence_length={tokens}",
        f"phases.0.global_batch_size={rows}",
        *LAYOUTS[layout],
    ]


def main() -> None:
    """Print the table; exit code 1 if a rank is outside the bound."""
    print("MiB of the rank that is farthest off")
    print(f"{'model':<16}{'size':<12}{'layout':<12}{'planned':>9}{'measured':>10}{'off by':>9}")
    worst = 0.0
    for arch in ARCHS:
        for size in SIZES:
            for layout in LAYOUTS:
                path, words = f"configs/tiny/{arch}.yaml", overrides(size, layout)
                pairs = zip(predicted_peaks(path, words), measured_peaks(path, words), strict=True)
                planned, measured = max(pairs, key=lambda pair: abs(pair[0] / pair[1] - 1))
                off = planned / measured - 1
                worst = max(worst, abs(off))
                row = f"{arch:<16}{size:<12}{layout:<12}{planned / MIB:>9.1f}{measured / MIB:>10.1f}{off:>+9.1%}"
                print(row, flush=True)
    print(f"worst: {worst:.1%}, bound {BOUND:.0%}")
    sys.exit(int(worst > BOUND))


if __name__ == "__main__":
    main()
