"""The numbers of a run that a comparison shows, gathered when it ends."""

from statistics import median
from typing import Any

from hierlm import metric_names, models
from hierlm.config.run_config import RunConfig
from hierlm.costs.flops import flops_per_token
from hierlm.models.assembly import LanguageModel
from hierlm.models.config import ModelConfig
from hierlm.parallel.tensor_plan import rule_for
from hierlm.phases.timeline import Timeline
from hierlm.report.columns import numbers
from hierlm.report.summary import RunStatus, RunSummary, SplitResult
from hierlm.report.time_split import attempt_spans
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_records
from hierlm.train.record.attempts import read_attempts


def summarise(
    run_dir: RunDir, *, config: RunConfig[Any], timeline: Timeline, step: int, status: RunStatus, peak_bytes: int
) -> RunSummary:
    """The state after `step` completed steps, from the run's own records."""
    records = read_records(run_dir.metrics)
    steps = [record for record in records if record.get("kind") == "train"]
    total, non_embedding = count_parameters(config.model)
    layout = config.parallel
    wall = sum(span.seconds for span in attempt_spans(read_attempts(run_dir), records))
    length = timeline.at(max(step - 1, 0)).phase.sequence_length
    return RunSummary(
        name=config.name,
        arch=config.model.arch,
        status=status,
        seed=config.seed,
        layout={
            "data_parallel_degree": layout.data_parallel_degree,
            "tensor_parallel_degree": layout.tensor_parallel_degree,
            "pipeline_parallel_degree": layout.pipeline_parallel_degree,
            "zero_stage": layout.zero_stage,
        },
        num_parameters=total,
        num_non_embedding_parameters=non_embedding,
        steps=step,
        tokens_seen=timeline.tokens_after(step),
        wall_seconds=wall,
        device_seconds=wall * layout.world_size,
        flops_per_token=flops_per_token(config.model, length),
        tokens_per_second=_median(steps, "tokens_per_second"),
        share_of_peak=_median(steps, "share_of_peak"),
        peak_kind=steps[-1].get("peak_kind") if steps else None,
        peak_device_memory_bytes=peak_bytes,
        valid=_last_result(records, "valid"),
        test=_last_result(records, "test"),
    )


def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """(all, those not sized by the vocabulary); a tied weight counts once. Nothing is allocated."""
    import torch

    with torch.device("meta"):
        model = LanguageModel(config, seed=0)
    plan = models.architecture(config.arch).TENSOR_PLAN
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    vocabulary = sum(size for name, size in sizes.items() if rule_for(plan, name) == "vocabulary")
    total = sum(sizes.values())
    return total, total - vocabulary


def _median(records: list[dict[str, Any]], name: str) -> float | None:
    # the first logged interval holds warm-up: it is left out where there are others
    values = numbers(records[1:], name) or numbers(records, name)
    return median(values) if values else None


def last_evaluation(records: list[dict[str, Any]], split: str) -> dict[str, Any] | None:
    """The newest evaluation of a split; numbers in it that were not finite are None."""
    return next((r for r in reversed(records) if r.get("kind") == "eval" and r.get("split") == split), None)


def _last_result(records: list[dict[str, Any]], split: str) -> SplitResult | None:
    last = last_evaluation(records, split)
    if last is None or last.get("loss") is None:  # it was not finite
        return None
    return SplitResult(
        loss=last["loss"],
        perplexity=last.get("perplexity"),
        bits_per_byte=last.get("bits_per_byte"),
        bits_per_dimension=last.get("bits_per_dimension"),
        metrics=metric_names.reported(last),
        step=last["step"],
    )
