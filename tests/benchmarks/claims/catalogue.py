"""All claims, in the order of their papers' place in the README."""

from hierlm.errors import UserError
from tests.benchmarks.claims import hourglass, lmu, multi_scale, skip_cross_head
from tests.benchmarks.claims.declared import Claim

CLAIMS = (hourglass.CLAIM, multi_scale.CLAIM, skip_cross_head.CLAIM, lmu.CLAIM)


def chosen(names: list[str]) -> list[Claim]:
    """The named claims, all when none is named; UserError for a name there is not."""
    known = {claim.name: claim for claim in CLAIMS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"claim: given {', '.join(unknown)}, allowed: {', '.join(known)}")
    return [known[name] for name in names] or list(CLAIMS)
