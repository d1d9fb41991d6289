"""DeepSpeed's engines: the only door to `deepspeed.initialize`, and all that is read or replaced of what it returns."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from hierlm.parallel.seams import deepspeed_names as deepspeed
from hierlm.parallel.seams.handle import Field, Handle, Method, Replaced, Written
from hierlm.parallel.seams.optimizers import ZeroOptimizer, handle_of
from hierlm.parallel.seams.parameters import require_parameters

Call = Callable[..., Any]


class Settings(Handle):
    """What DeepSpeed made of the config it was given."""

    of = "deepspeed.runtime.config.DeepSpeedConfig"

    gradient_accumulation_steps = Written[int]("phases differ in micro-batches a step, and no method sets their number")


class Engine(Handle):
    """One stage; of several: what both kinds of engine have."""

    of = "deepspeed.runtime.engine.DeepSpeedEngine"

    module = Field[Any]("the model is asked for its parameters and given its switches")
    optimizer = Field[Any]("ZeRO's holds gradients and full-precision weights", seen_as=handle_of)
    basic_optimizer = Field[Any]("moments are saved, loaded, reset and compared")
    settings = Field[Settings]("it holds the number of micro-batches", name="_config", seen_as=Settings)
    device = Field[Any]("recurrent memories live there")
    mpu = Field[Any]("a universal checkpoint is cut by its tensor-parallel rank")

    forward = Method[Call]("a micro-batch goes through the model")
    backward = Method[Call]("it scales the loss and runs the backward pass")
    step = Method[Call]("it ends a micro-batch, and after the last one a step")
    train = Method[Call]("an evaluation ends")
    eval = Method[Call]("an evaluation begins")
    set_train_micro_batch_size = Method[Call]("phases differ in it")
    micro_steps = Written[int]("a step ends at a multiple of the number of micro-batches: 0 when a phase begins")
    get_global_grad_norm = Method[Call]("the gradient's norm is logged, and decides whether a step is left out")
    zero_optimization = Method[Call]("whether there is a ZeRO optimizer")
    zero_optimization_partition_weights = Method[Call]("whether weights are partitioned: stage 3")

    take_step = Replaced[Call]("gradients are whole where it begins: they are looked at", name="_take_model_step")
    clip_fp32_gradients = Replaced[Call]("it keeps no norm, and minds no value that is not finite", takes=())
    buffered_allreduce_fallback = Replaced[Call](
        "over one data-parallel rank it copies all gradients there and back", takes=("grads", "elements_per_buffer")
    )
    gradients_for_reduction = Method[Call](
        "it gives parameters without gradient zeros, what is left of the reduction over one rank",
        name="_get_gradients_for_reduction",
    )

    save_checkpoint = Method[Call]("it collects what a checkpoint must hold")
    load_checkpoint = Method[Call]("it puts back what save_checkpoint wrote")
    checkpoint_engine = Written[Any]("its files go through our writer and our reader, which run nothing")
    copy_recovery_script = Replaced[Call](
        "it copies scripts beside every checkpoint", takes=("save_path",), name="_copy_recovery_script"
    )
    file_of_weights = Method[Call]("the names in a checkpoint are looked at before it is loaded", name="_get_ckpt_name")
    names_of_weights = Replaced[Call](
        "it lists the folder on every rank", takes=("checkpoints_path", "tag"), name="_get_all_ckpt_names"
    )
    names_of_optimizers = Replaced[Call](
        "it asks on every rank for the files of all",
        takes=("load_dir", "tag", "bf16_mode"),
        name="_get_all_zero_checkpoint_names",
    )
    rules_for_optimizers = Method[Call](
        "the names of a slice's optimizer files, without asking", name="_get_mp_rank_zero_checkpoint_names"
    )
    global_steps = Written[int]("a universal checkpoint goes on counting")
    global_samples = Written[int]("a universal checkpoint goes on counting")
    skipped_steps = Written[int]("a universal checkpoint goes on counting")

    def __call__(self, *given: Any) -> Any:
        """The forward pass, with torch's hooks."""
        return self.behind(*given)


class PipelineEngine(Engine):
    """Several stages."""

    of = "deepspeed.runtime.pipe.engine.PipelineEngine"

    micro_batches = Written[int]("phases differ in their number, and an evaluation leaves its own behind")
    train_batch = Method[Call]("a step: one forward and one backward pass in turn")
    eval_batch = Method[Call]("an evaluation")
    dp_group_loss = Field[Tensor]("the mean loss of this rank's rows, before the mean over ranks")
    total_loss = Written[Any]("an evaluation would add its nats to the mean loss of the step before")
    reset_activation_shape = Method[Call]("stages agree anew on shapes when they change")
    module_state_dict = Replaced[Call]("it writes a file a layer, without names", takes=("exclude_frozen_parameters",))
    load_module_state_dict = Replaced[Call]("it reads a file a layer, without names")


class CheckpointFiles(Handle):
    """Where DeepSpeed asks for its files; `hierlm.parallel.saving` and `loading` derive from it."""

    of = "deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine.TorchCheckpointEngine"

    makedirs = Replaced[Call]("an error in it would leave other ranks waiting", takes=("path", "exist_ok"))
    save = Replaced[Call](
        "it writes in place, and an error would leave other ranks waiting", takes=("state_dict", "path")
    )
    load = Replaced[Call]("it unpickles, and so runs what a file says", takes=("path", "map_location"))


class LinearFunction(Handle):
    """What stands for torch's linear function at ZeRO stage 3."""

    of = "deepspeed.runtime.zero.linear.LinearFunctionForZeroStage3"

    forward = Replaced[Call]("it adds the bias in place to the product that is kept", takes=("input", "weight", "bias"))


def start_engine(module: nn.Module, optimizer: Any, *, mpu: Any, settings: dict[str, Any]) -> Engine:
    """`deepspeed.initialize`; UserError where what it returns lacks anything of these lists.

    A pipeline engine writes and reads weights layer by layer, without names: here it keeps to the form of the other.
    """
    theirs, *_ = deepspeed.initialize(model=module, optimizer=optimizer, mpu=mpu, config=settings)
    is_pipeline = isinstance(module, deepspeed.PipelineModule)
    engine: Engine = (PipelineEngine if is_pipeline else Engine)(theirs).require()
    engine.settings.require()
    if isinstance(engine.optimizer, ZeroOptimizer):
        engine.optimizer.require()
        require_parameters(_parameters(engine.optimizer.groups), stage_3=engine.zero_optimization_partition_weights())
    if isinstance(engine, PipelineEngine):
        _keep_names(engine, theirs)
    return engine


def _parameters(groups: Sequence[Sequence[Any]]) -> list[Any]:
    return [parameter for group in groups for parameter in group]


def _keep_names(engine: PipelineEngine, theirs: Any) -> None:
    def module_state_dict(exclude_frozen_parameters: bool = False) -> Any:
        whole = deepspeed.DeepSpeedEngine.module_state_dict
        return whole(theirs, exclude_frozen_parameters=exclude_frozen_parameters)

    engine.module_state_dict = module_state_dict
    engine.load_module_state_dict = partial(deepspeed.DeepSpeedEngine.load_module_state_dict, theirs)
