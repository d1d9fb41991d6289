"""Made-up results: a declared claim with chosen numbers in place of runs."""

import math
from collections.abc import Mapping
from typing import Any

from tests.benchmarks.claims.declared import Claim
from tests.benchmarks.claims.results import CurveResult, Results, RunResult


def made_up(claim: Claim, losses: Mapping[str, float], **more: Mapping[str, Any]) -> Results:
    """Every declared run of the claim; arms not in `losses` have 2 nats, seeds differ by 0.001, arms in their size.

    `more` names other fields of RunResult, each with its value by arm.
    """
    runs = []
    sizes = {arm.name: 1000 + index for index, arm in enumerate(claim.arms)}
    for run in claim.runs:
        loss = losses.get(run.arm, 2.0) + 0.001 * run.seed
        curve = CurveResult(tokens=(500.0, 1000.0), seconds=(50.0, 100.0), loss=(loss + 1, loss))
        numbers: dict[str, Any] = {
            "num_parameters": sizes[run.arm],
            "num_non_embedding_parameters": sizes[run.arm],
            "tokens": 1000,
            "train_seconds": 100.0,
            "peak_bytes": 1 << 20,
        }
        numbers |= {field: by_arm[run.arm] for field, by_arm in more.items() if run.arm in by_arm}
        runs.append(
            RunResult(
                name=run.name,
                arm=run.arm,
                seed=run.seed,
                arch="transformer",
                steps=10,
                flops_per_token=1e6,
                loss=loss,
                perplexity=math.exp(loss),
                bits_per_byte=loss / math.log(2),
                evaluations=curve,
                training=curve,
                **numbers,
            )
        )
    return Results(claim=claim.name, machine="made up", revision="0", runs=tuple(runs))
