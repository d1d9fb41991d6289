"""The evaluation that an attempt makes now and then: of the valid split of every source."""

import sys
from typing import Any

import torch.distributed as dist

from data_pipeline.check.run import evaluation_problems
from data_pipeline.errors import DataError
from data_pipeline.read.loader import open_split
from data_pipeline.read.split import can_be_evaluated
from hierlm.config.run_config import RunConfig
from hierlm.models.assembly import is_recurrent
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_records
from hierlm.train.evaluation import Evaluation, Share
from hierlm.train.foundation import Foundation
from hierlm.train.hooks import EvaluationHook
from hierlm.train.loaded_inputs import wants_documents
from hierlm.train.mixture_evaluation import MixtureEvaluation
from hierlm.train.watch.heartbeat import HeartbeatWriter

PARTS_A_STAGE = 4
"""Micro-batches of an evaluation's pass for each stage of a pipeline."""


def valid_evaluation(base: Foundation, heartbeat: HeartbeatWriter) -> MixtureEvaluation:
    """The valid split of every source, shared out over data-parallel ranks."""
    config, engine = base.config, base.engine
    paths = [source.path for source in config.data.weighted_sources]
    problems = evaluation_problems(paths, {phase.name: config.source_weights(phase) for phase in config.phases})
    if problems:
        raise DataError(problems)

    def stopped() -> bool:
        heartbeat.mark("evaluating")
        return base.stop.agreed(engine.process.device)

    share = Share(
        dp_rank=engine.dp_rank,
        dp_degree=engine.dp_degree,
        add_up=engine.global_sum,
        stopped=stopped,
        forget_reports=engine.forget_reports,
        reports=engine.evaluation_reports,
    )
    lanes = config.phases[0].global_batch_size  # the result may not depend on the layout: memory starts anew per lane
    recurrent = is_recurrent(config.model)
    rows_per_pass = lanes if recurrent else engine.dp_degree * rows_of_a_pass(config)

    def evaluation_of(path: str) -> Evaluation | None:
        if not can_be_evaluated(path, "valid"):
            base.console.say(f"{path}: no valid split, so it is left out of the evaluation, which is of the others")
            return None
        return Evaluation(
            open_split(path, "valid"),
            score=engine.evaluate,
            rows_per_pass=rows_per_pass,
            is_recurrent=recurrent,
            document_starts=wants_documents(config.model),
            objective=config.objective,
            seed=config.seed,
            share=share,
        )

    return MixtureEvaluation(dict(zip(config.data.source_names, map(evaluation_of, paths), strict=True)))


def rows_of_a_pass(config: RunConfig[Any]) -> int:
    """What a data-parallel rank evaluates at once without memory: a micro-batch; of several stages as many as let
    them lie idle for a fifth of the time, but no more than are asked for."""
    layout = config.parallel
    rows = layout.micro_batch(global_batch_size=config.phases[0].global_batch_size)
    if layout.pipeline_parallel_degree == 1:
        return rows
    wanted = config.train.eval_rows or sys.maxsize
    needed = -(-wanted // (rows * layout.data_parallel_degree))
    return rows * min(PARTS_A_STAGE * layout.pipeline_parallel_degree, needed)


def catch_up(base: Foundation, evaluation: EvaluationHook, *, step: int) -> None:
    """Make the evaluation of the step gone on from, if the attempt before did not get to its end.

    Weights of another training are evaluated before the first step, too: that is what training starts from.
    """
    due = evaluation.is_due(step) if step else base.config.init_from is not None
    if not due:
        return
    missing = [not _has_evaluation(base.run_dir, step=step)]
    dist.broadcast_object_list(missing, src=0)
    if missing[0]:
        evaluation.evaluate(step)


def _has_evaluation(run_dir: RunDir, *, step: int) -> bool:
    records = read_records(run_dir.metrics)
    return any(r.get("kind") == "eval" and r["step"] == step and r.get("split") == "valid" for r in records)
