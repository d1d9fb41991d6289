"""From a config to this process's part of a model, and DeepSpeed's engine around it with what is replaced of it."""

from typing import Any

import torch

from hierlm.config.run_config import RunConfig
from hierlm.costs.cut import stage_cut
from hierlm.models.assembly import (
    canonical_kinds,
    canonical_names,
    layer_specs,
    param_rules,
)
from hierlm.optim.build import build_optimizer
from hierlm.optim.rules import own_terms
from hierlm.parallel.before_update import look_before_update
from hierlm.parallel.gradient_norm import clip_gradients, notice_replicas, partitioned_norm
from hierlm.parallel.groups import Groups
from hierlm.parallel.loss import require_head
from hierlm.parallel.loss_module import LossModule
from hierlm.parallel.older_deepspeed import make_skip
from hierlm.parallel.pipeline import Pipeline
from hierlm.parallel.scattered_gradients import scatter_gradients
from hierlm.parallel.seams import engine as seam
from hierlm.parallel.seams.optimizers import (
    Bf16Optimizer,
    Stage12Optimizer,
    show_norm,
    skips_by_itself,
)
from hierlm.parallel.seams.parameters import whole_shape
from hierlm.parallel.seams.questions import answer_without_waiting, noting
from hierlm.parallel.sequence import TokenShares
from hierlm.parallel.skipped_steps import SkipFlag
from hierlm.parallel.stage_3_linear import add_biases_out_of_place
from hierlm.parallel.stage_3_partition import partition_by_layer
from hierlm.parallel.stage_model import build_stage, tensor_plan
from hierlm.parallel.universal import require_names, universal_info
from hierlm.parallel.zero import (
    bucket_values,
    clip_norm,
    deepspeed_config,
    effective_stage,
    is_scattered,
    reduce_dtype,
)
from hierlm.phases.config import PhaseConfig
from hierlm.phases.trainable import trained_in


def build_module(config: RunConfig[Any], groups: Groups) -> LossModule | Pipeline:
    """All layers, or those of this process's stage, sliced, with the loss at their end."""
    shares = TokenShares(groups) if config.parallel.sequence_parallel else None
    chunk_tokens, z_loss = config.train.loss_chunk_tokens, getattr(config.model, "z_loss", 0.0)
    if chunk_tokens is not None:
        require_head(layer_specs(config.model)[-1])
    recompute = config.parallel.activation_recompute
    module: LossModule | Pipeline
    if groups.degrees["pipeline"] > 1:
        boundaries = stage_cut(config).boundaries
        module = Pipeline(
            config.model,
            seed=config.seed,
            boundaries=boundaries,
            groups=groups,
            recompute=recompute,
            shares=shares,
            loss_chunk_tokens=chunk_tokens,
            z_loss=z_loss,
        )
    else:
        everything = range(len(layer_specs(config.model)))
        by_layer = partition_by_layer(config, groups)
        built = build_stage(config.model, seed=config.seed, stage=everything, groups=groups, partition=by_layer)
        module = LossModule(
            built.layers, recompute=recompute, shares=shares, loss_chunk_tokens=chunk_tokens, z_loss=z_loss
        )
    if shares is not None:
        shares.require_some(groups.pipeline)
    return module


def engine_around(
    module: LossModule | Pipeline, config: RunConfig[Any], phase: PhaseConfig, *, groups: Groups
) -> tuple[seam.Engine, dict[str, Any], SkipFlag]:
    """(DeepSpeed's engine, what its checkpoints must say of the parameters, whether a step is left out)."""
    names = canonical_names(config.model)
    trained = trained_in(names, config.phases)
    rules = {f"PARAM_RULES of {config.model.arch}": param_rules(config.model), "optim.rules": config.optim.rules}
    own = own_terms(names, rules)
    num_parameters = sum(whole_shape(parameter).numel() for parameter in module.parameters())
    optimizer = build_optimizer(
        config.optim,
        module,
        kinds=canonical_kinds(config.model),
        trained_in=trained,
        own=own,
        bucket_values=bucket_values(config, num_parameters=num_parameters),
    )
    model = config.model
    info = universal_info(
        module,
        optimizer,
        plan=tensor_plan(model),
        vocab_size=model.vocab_size,
        pipeline=groups.pipeline,
        tp_degree=groups.degrees["tensor"],
    )
    require_names(info, names)
    settings = deepspeed_config(config, phase, num_parameters=num_parameters)
    if effective_stage(config) == 3:
        add_biases_out_of_place()
    mpu = None if isinstance(module, Pipeline) else groups  # a pipeline brings its own
    engine = seam.start_engine(module, optimizer, mpu=mpu, settings=settings)
    skips = SkipFlag(optimizer, device=engine.device)
    _replace_what_will_not_do(engine, config, groups=groups, skips=skips)
    return engine, info, skips


def _take_steps_without_waiting(engine: seam.Engine, skips: SkipFlag) -> None:
    take_step = engine.take_step

    def take_and_note(lr_kwargs: Any) -> Any:
        with noting(skips.note):
            return take_step(lr_kwargs)

    answer_without_waiting()
    engine.take_step = take_and_note


def _replace_what_will_not_do(engine: seam.Engine, config: RunConfig[Any], *, groups: Groups, skips: SkipFlag) -> None:
    def clip_and_keep_norm() -> None:
        # DeepSpeed clips fp32 gradients at stage 0 without keeping the norm or minding what it is; `_take_model_step`
        # looks for the norm here, where its own optimizers have it
        norm = clip_gradients(engine.module.parameters(), max_norm=clip_norm(config), groups=groups)
        show_norm(engine.optimizer, norm)
        skips.note(~torch.isfinite(norm))

    engine.clip_fp32_gradients = clip_and_keep_norm
    if skips_by_itself():
        _take_steps_without_waiting(engine, skips)
    look_before_update(engine, skips.clear)
    if is_scattered(config):
        is_early = not isinstance(engine.module, Pipeline)
        scatter_gradients(engine, groups, dtype=reduce_dtype(config), is_early=is_early)
    elif isinstance(engine.module, Pipeline) and isinstance(engine.optimizer, Stage12Optimizer):
        partitioned = engine.optimizer
        partitioned.scaled_global_norm = lambda norm_type=2: partitioned_norm(partitioned, groups)
    if engine.zero_optimization():
        if skips_by_itself():
            notice_replicas(engine.optimizer, groups, note=skips.note if config.parallel.offload == "none" else None)
        else:
            make_skip(engine.optimizer, groups)
    if groups.degrees["data"] == 1 and not isinstance(engine.optimizer, Bf16Optimizer):
        # it would copy all gradients into a buffer, reduce them over one rank, and copy them back; what is left is that
        # parameters without gradient get zeros, as they do where there is something to reduce
        engine.buffered_allreduce_fallback = lambda grads=None, elements_per_buffer=0: engine.gradients_for_reduction()
