"""What the rooms demand of each other: arithmetic over the whole config that no single field can check."""

from collections.abc import Callable, Iterator
from itertools import pairwise

from hierlm import models, objectives
from hierlm.config.problem import Problem, given, nearest, sentence
from hierlm.config.run_config import RunConfig
from hierlm.discovery import is_named, names_in
from hierlm.models.config import ModelConfig
from hierlm.optim.optimizers import zero_stages
from hierlm.phases.config import PhaseConfig
from hierlm.phases.timeline import curve_spans
from hierlm.plugins import PACKAGES

Config = RunConfig[ModelConfig]

SPLIT_BY_TENSOR_PARALLELISM = ("num_heads", "ffn_dim")
"""Model fields whose units are dealt out to the tensor-parallel ranks."""


def problems(config: Config) -> list[str]:
    """One line `dotted.path: given, allowed` per conflict; empty when the config can run as a whole."""
    return [f"{conflict.path}: {conflict.text}" for conflict in conflicts(config)]


def conflicts(config: Config) -> list[Problem]:
    """The same with paths, for the loader."""
    return [conflict for rule in RULES for conflict in rule(config)]


def unique_phase_names(config: Config) -> Iterator[Problem]:
    """Logs and metrics tell phases by name."""
    names = [phase.name for phase in config.phases]
    for index, name in enumerate(names):
        if name in names[:index]:
            first = names.index(name)
            text = f'given "{name}", which is the name of phases.{first} too, allowed: a name used once'
            yield Problem(f"phases.{index}.name", text, involves=(f"phases.{first}.name",))


def batches_divide(config: Config) -> Iterator[Problem]:
    """A global batch is whole micro-batches on every data-parallel rank."""
    layout = config.parallel
    unit = layout.data_parallel_degree * (layout.micro_batch_size or 1)
    factors = f"parallel.data_parallel_degree {layout.data_parallel_degree}"
    if layout.micro_batch_size:
        factors += f" x parallel.micro_batch_size {layout.micro_batch_size}"
    for index, phase in enumerate(config.phases):
        given = phase.global_batch_size
        if given % unit:
            lower = given // unit * unit
            near = f"{lower} or {lower + unit}" if lower else str(unit)
            yield Problem(
                f"phases.{index}.global_batch_size",
                f"given {given}, allowed: a multiple of {unit} (= {factors}), nearest: {near}",
                involves=("parallel.data_parallel_degree", "parallel.micro_batch_size"),
            )


def tensor_parallelism_divides(config: Config) -> Iterator[Problem]:
    """Every tensor-parallel rank has the same number of heads and of feed-forward units."""
    degree = config.parallel.tensor_parallel_degree
    for field in SPLIT_BY_TENSOR_PARALLELISM:
        units = getattr(config.model, field, None)
        if isinstance(units, int) and units % degree:
            divisors = [d for d in range(1, units + 1) if units % d == 0]
            yield Problem(
                "parallel.tensor_parallel_degree",
                f"given {degree}, allowed: a divisor of model.{field} {units} ({', '.join(map(str, divisors[:12]))})",
                involves=(f"model.{field}",),
            )


def tensor_parallelism_divides_shared_heads(config: Config) -> Iterator[Problem]:
    """A rank makes whole heads of keys and values: some of them, or one that other ranks make too."""
    degree, heads = config.parallel.tensor_parallel_degree, getattr(config.model, "num_kv_heads", None)
    if isinstance(heads, int) and degree % heads and heads % degree:
        yield Problem(
            "parallel.tensor_parallel_degree",
            f"given {degree}, allowed: a divisor or a multiple of model.num_kv_heads {heads}",
            involves=("model.num_kv_heads",),
        )


def query_key_norm_stays_on_a_rank(config: Config) -> Iterator[Problem]:
    """The mean over all heads would need a message in every attention."""
    degree = config.parallel.tensor_parallel_degree
    if getattr(config.model, "qk_norm", None) == "vector" and degree > 1:
        text = f"given vector with parallel.tensor_parallel_degree {degree}, allowed: none, head"
        why = "because a rank holds some of the heads and the norm is over all of them"
        yield Problem("model.qk_norm", f"{text}, {why}", involves=("parallel.tensor_parallel_degree",))


def pipeline_has_enough_layers(config: Config) -> Iterator[Problem]:
    """Every pipeline stage has at least one layer of the model's list; embedding and head are layers too."""
    if not models.is_known(config.model.arch):
        return
    degree = config.parallel.pipeline_parallel_degree
    most = models.architecture(config.model.arch).list_length(config.model)
    if degree > most:
        text = f"given {degree}, allowed: 1 to {most}, the layers of this {config.model.arch} with embedding and head"
        yield Problem("parallel.pipeline_parallel_degree", text, involves=("model",))


def gradients_can_be_seen(config: Config) -> Iterator[Problem]:
    """With ZeRO-Offload they have left for the optimizer's buffers in host memory before an update begins."""
    if config.train.log_gradient_norms and config.parallel.offload != "none":
        text = f"given true with parallel.offload {config.parallel.offload}, allowed: false, or parallel.offload none"
        why = "offloaded gradients are in the optimizer's own buffers before anybody can look at them"
        yield Problem("train.log_gradient_norms", f"{text}, because {why}", involves=("parallel.offload",))


def tracker_is_known(config: Config) -> Iterator[Problem]:
    """A file of hierlm/tracking/trackers, or a plugin's."""
    package, given_kind = PACKAGES["tracker"], config.tracking.kind
    if not is_named(given_kind, package=package):
        known = names_in(package)
        text = sentence(f"given {given(given_kind)}", allowed=", ".join(known), near=nearest(given_kind, known))
        yield Problem("tracking.kind", text)


def stage_cut_fits(config: Config) -> Iterator[Problem]:
    """A cut by hand names the first layer of every stage after the first."""
    cut, degree = config.parallel.stage_cut, config.parallel.pipeline_parallel_degree
    if isinstance(cut, str):
        return
    involves = ("parallel.pipeline_parallel_degree",)
    if len(cut) != degree - 1:
        allowed = f"{degree - 1} layer numbers for parallel.pipeline_parallel_degree {degree}"
        yield Problem("parallel.stage_cut", f"given {list(cut)}, allowed: {allowed}", involves=involves)
    elif any(later <= earlier for earlier, later in pairwise(cut)):
        yield Problem("parallel.stage_cut", f"given {list(cut)}, allowed: growing layer numbers", involves=involves)


def zero_allows_pipeline(config: Config) -> Iterator[Problem]:
    """DeepSpeed's PipelineEngine accumulates gradients where ZeRO 2 and 3 would already have scattered them."""
    stage, degree = config.parallel.zero_stage, config.parallel.pipeline_parallel_degree
    if stage >= 2 and degree > 1:
        yield Problem(
            "parallel.zero_stage",
            f"given {stage} with parallel.pipeline_parallel_degree {degree}, allowed: 0 or 1, because a stage sums "
            f"whole gradients over its micro-batches, which ZeRO {stage} does not keep; or keep {stage} and set "
            "parallel.pipeline_parallel_degree to 1",
            involves=("parallel.pipeline_parallel_degree",),
        )


def offload_needs_partitions(config: Config) -> Iterator[Problem]:
    """ZeRO moves to the host what a rank owns: a share of the optimizer from stage 1 on, of the weights at stage 3."""
    layout, lowest = config.parallel, {"none": 0, "optimizer": 1, "parameters": 3}[config.parallel.offload]
    involves = ("parallel.zero_stage", "parallel.pipeline_parallel_degree")
    if layout.zero_stage < lowest:
        text = f"given {layout.offload} with parallel.zero_stage {layout.zero_stage}, allowed from stage {lowest} on"
        yield Problem("parallel.offload", text, involves=involves)
    elif lowest and layout.pipeline_parallel_degree > 1:
        degree = f"parallel.pipeline_parallel_degree {layout.pipeline_parallel_degree}"
        reason = "because DeepSpeed's pipeline engine brings no gradients to the host"
        yield Problem("parallel.offload", f"given {layout.offload} with {degree}, allowed: none, {reason}", involves)


def sequence_parallelism_has_ranks(config: Config) -> Iterator[Problem]:
    """It shares tokens out over the ranks that share the weights."""
    if config.parallel.sequence_parallel and config.parallel.tensor_parallel_degree == 1:
        text = "given true with parallel.tensor_parallel_degree 1, allowed: false; or raise that degree"
        yield Problem("parallel.sequence_parallel", text, involves=("parallel.tensor_parallel_degree",))


def architecture_allows_layout(config: Config) -> Iterator[Problem]:
    """What an architecture says it cannot do on several ranks (`refusals` in its file)."""
    if not models.is_known(config.model.arch):
        return
    refusals: Callable[[ModelConfig], dict[str, str]]
    refusals = getattr(models.architecture(config.model.arch), "refusals", lambda model: {})
    in_phases = [config.model.model_copy(update=phase.model) for phase in config.phases]
    reasons = {field: reason for model in in_phases for field, reason in refusals(model).items()}
    for field, reason in reasons.items():
        degree = getattr(config.parallel, field)
        if degree > 1:
            text = f"given {degree} with model.arch {config.model.arch}, allowed: 1, because {reason}"
            yield Problem(f"parallel.{field}", text, involves=("model",))


def bf16_keeps_fp32_gradients(config: Config) -> Iterator[Problem]:
    """DeepSpeed sums bf16 gradients in fp32 only where ZeRO partitions the optimizer."""
    layout = config.parallel
    if config.train.precision == "bf16" and layout.zero_stage == 0 and layout.data_parallel_degree > 1:
        yield Problem(
            "parallel.zero_stage",
            "given 0 with train.precision bf16 on several data-parallel ranks, allowed: 1, 2 or 3, because without "
            "ZeRO gradients are not summed in fp32, nearest: 1; or set train.precision to fp32",
            involves=("train.precision", "parallel.data_parallel_degree"),
        )


def gradients_travel_as_they_are_made(config: Config) -> Iterator[Problem]:
    """Rounding for the way only is of use where gradients are bf16 before it, and somebody reduces them."""
    layout, precision = config.parallel, config.train.precision
    if layout.reduce_precision == "bf16" and precision != "bf16":
        text = f"given bf16 with train.precision {precision}, allowed: fp32; or set train.precision to bf16"
        yield Problem("parallel.reduce_precision", text, involves=("train.precision",))


def something_to_do(config: Config) -> Iterator[Problem]:
    """A phase may be empty, the run may not."""
    if all(phase.num_steps == 0 for phase in config.phases):
        yield Problem("phases.0.duration", "given 0 steps in every phase, allowed: at least 1 step or token")


def warmup_fits_its_span(config: Config) -> Iterator[Problem]:
    """A curve spans the phases up to the next one that declares its own; a warm-up is measured in its own unit."""
    for start, span in curve_spans(config.phases).items():
        warmup = span.phases[0].learning_rate.warmup
        unit, given, most = "steps", warmup.steps, span.num_steps
        if warmup.tokens is not None:
            unit, given, most = "tokens", warmup.tokens, span.num_tokens
        if given is not None and given > most:
            yield Problem(
                f"phases.{start}.learning_rate.warmup",
                f"given {given} {unit}, allowed: at most {most}, the {unit} of {_names(span.phases)}",
                involves=tuple(f"phases.{i}" for i in range(start, start + len(span.phases))),
            )


def curves_fall(config: Config) -> Iterator[Problem]:
    """From its peak a rate only falls; one that is to climb is a warm-up."""
    for index, phase in enumerate(config.phases):
        curve = phase.learning_rate
        begins = index == 0 or phase.restarts_learning_rate
        if begins and curve.final_rate > curve.peak:
            yield Problem(
                f"phases.{index}.learning_rate.final",
                f"given {curve.final_rate:g}, allowed: at most the peak, {curve.peak:g}; a share of any peak is "
                "final_fraction: 0.1",
                involves=(f"phases.{index}.learning_rate.peak",),
                spares_records=True,
            )


def data_weights_fit_the_sources(config: Config) -> Iterator[Problem]:
    """A phase weighs the sources by their order, and leaves at least one."""
    num_sources, inherited = len(config.data.weighted_sources), None
    for index, phase in enumerate(config.phases):
        weights, inherited_before, inherited = phase.data_weights, inherited, phase.data_weights
        if weights is None or weights == inherited_before:  # told where it was written
            continue
        shown, allowed = f"given {list(weights)}", f"{num_sources} weights, one for each of data.sources"
        if num_sources == 1:
            text = f"{shown} with a single data source, allowed: nothing; name the datasets in data.sources"
        elif len(weights) != num_sources:
            text = f"{shown}, allowed: {allowed}"
        elif not any(weights):
            text = f"{shown}, allowed: {allowed}, at least one of them above 0"
        else:
            continue
        yield Problem(f"phases.{index}.data_weights", text, involves=("data",))


def cadences_are_positive(config: Config) -> Iterator[Problem]:
    """`every: {steps: 0}` never comes round."""
    cadences = {
        "checkpoint.every": config.checkpoint.every,
        "train.log_every": config.train.log_every,
        "train.eval_every": config.train.eval_every,
    }
    for path, every in cadences.items():
        if every is not None and not (every.steps or every.tokens):
            unit = "tokens" if every.steps is None else "steps"
            yield Problem(path, f"given {{{unit}: 0}}, allowed: at least 1")


def profile_is_within_the_run(config: Config) -> Iterator[Problem]:
    """A step that never comes would never be traced."""
    profile, num_steps = config.train.profile, sum(phase.num_steps for phase in config.phases)
    if profile is not None and profile.last > num_steps:
        text = f"given {profile.steps}, allowed: steps 1 to {num_steps}, which is all this run has"
        yield Problem("train.profile.steps", text, involves=("phases",))


def optimizer_allows_zero_stage(config: Config) -> Iterator[Problem]:
    """From stage 1 on an optimizer sees flat stretches of many parameters."""
    name, stage = config.optim.name, config.parallel.zero_stage
    stages = zero_stages(name)
    if stage not in stages:
        text = f"given {stage} with optim.name {name}, allowed: {', '.join(map(str, stages))}"
        yield Problem("parallel.zero_stage", text, involves=("optim.name",))


def architecture_has_the_objective(config: Config) -> Iterator[Problem]:
    """What a model's tokens see decides what it can be asked."""
    name, arch = config.objective.name, config.model.arch
    if type(config.model) is ModelConfig:
        return  # stands for one that is not known
    sees = models.sees(models.architecture(arch))
    if objectives.objective(name).SEES not in sees:
        can = [other for other in objectives.names() if objectives.objective(other).SEES in sees]
        text = f"given {given(name)}, allowed with model.arch {arch}: {', '.join(can)}"
        yield Problem("objective.name", text, involves=("model.arch",))


def _names(phases: tuple[PhaseConfig, ...]) -> str:
    return ("phase " if len(phases) == 1 else "phases ") + ", ".join(phase.name for phase in phases)


RULES: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    unique_phase_names,
    batches_divide,
    tensor_parallelism_divides,
    tensor_parallelism_divides_shared_heads,
    query_key_norm_stays_on_a_rank,
    pipeline_has_enough_layers,
    tracker_is_known,
    gradients_can_be_seen,
    stage_cut_fits,
    zero_allows_pipeline,
    offload_needs_partitions,
    sequence_parallelism_has_ranks,
    architecture_allows_layout,
    bf16_keeps_fp32_gradients,
    gradients_travel_as_they_are_made,
    something_to_do,
    warmup_fits_its_span,
    curves_fall,
    data_weights_fit_the_sources,
    cadences_are_positive,
    profile_is_within_the_run,
    optimizer_allows_zero_stage,
    architecture_has_the_objective,
)
