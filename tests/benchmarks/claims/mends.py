"""Changes of what a claim's runs compute that were made after the runs: told beside them until they are run again."""

from dataclasses import dataclass

from tests.benchmarks.claims.results import Results


@dataclass(frozen=True)
class Mend:
    """Holds for kept results of this revision; those of new runs have another one, and the mark is gone."""

    revision: str
    what: str
    archs: frozenset[str]  # whose runs it changes
    others: str  # of the claim's runs


MENDS = {
    "multi-scale": Mend(
        "3883a18+",
        "weight decay now reaches the retina's scale embeddings",
        frozenset({"retina"}),
        "the runs of the other three are not touched",
    ),
    "skip-cross-head": Mend(
        "53e19b9",
        "weight decay no longer reaches u and v",
        frozenset({"transformer_xl", "skip_cross_head_xl"}),
        "every run is touched, the baseline's too",
    ),
    "lmu": Mend(
        "aaaf38c",
        "weight decay now reaches the pool of the LMU's implicit attention",
        frozenset({"lmu"}),
        "the runs of transformer and LSTM are not touched",
    ),
}
"""By claim. Those of dropout and of bins of falling width touch none: no claim drops anything or has such bins."""


def mend_after(results: Results) -> Mend | None:
    """What was mended after these results were made."""
    mend = MENDS.get(results.claim)
    return mend if mend is not None and mend.revision == results.revision else None


def mark(results: Results) -> str | None:
    """The sentence that CLAIMS.md has of it."""
    mend = mend_after(results)
    if mend is None:
        return None
    return f"**Made before a mend:** {mend.what}; {mend.others}. To be run again."
