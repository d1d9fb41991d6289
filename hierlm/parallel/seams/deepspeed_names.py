"""What is imported from DeepSpeed. It takes seconds; `light_imports` comes first."""

from typing import Any

from hierlm.parallel import light_imports  # noqa: F401 - without what it would import along
from hierlm.parallel.seams.seam import Names, refuse

NAMES = Names()
take = NAMES.take

init_distributed: Any = take("deepspeed", "init_distributed", "it starts the process group that DeepSpeed knows of")
initialize: Any = take("deepspeed", "initialize", "it wraps model and optimizer into an engine")
DeepSpeedEngine: Any = take("deepspeed", "DeepSpeedEngine", "it writes weights by name, which its pipeline does not")
PipelineModule: Any = take("deepspeed.pipe", "PipelineModule", "our stages are built as one")
PipeModelDataParallelTopology: Any = take(
    "deepspeed.runtime.pipe.topology", "PipeModelDataParallelTopology", "it orders the ranks as megatron-core does"
)
TorchCheckpointEngine: Any = take(
    "deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine",
    "TorchCheckpointEngine",
    "ours, through which it writes its files, is one",
)
PartitionedOnSight: Any = take(
    "deepspeed.runtime.zero.partition_parameters",
    "Init",
    "at stage 3 each layer is partitioned when it is built, not all of them when all are there",
)
LinearFunctionForZeroStage3: Any = take(
    "deepspeed.runtime.zero.linear",
    "LinearFunctionForZeroStage3",
    "its forward pass changes the product that selective recompute keeps",
)


def _key(name: str) -> str:
    """A key of DeepSpeed's checkpoints."""
    return str(take("deepspeed.checkpoint.constants", name, "its checkpoints are written and read by key"))


CAT_DIM = _key("CAT_DIM")
LOSS_SCALER = _key("LOSS_SCALER")
OPTIMIZER_STATE_DICT = _key("OPTIMIZER_STATE_DICT")
ORIGINAL_VOCAB_SIZE = _key("ORIGINAL_VOCAB_SIZE")
PARAM = _key("PARAM")
PARAMETER_WITH_ROW_PARALLELISM_PATTERNS = _key("PARAMETER_WITH_ROW_PARALLELISM_PATTERNS")
TP_REPLICATED_PARAMETER_PATTERNS = _key("TP_REPLICATED_PARAMETER_PATTERNS")
UNIVERSAL_CHECKPOINT_INFO = _key("UNIVERSAL_CHECKPOINT_INFO")
UNIVERSAL_CHECKPOINT_VERSION_KEY = _key("UNIVERSAL_CHECKPOINT_VERSION_KEY")
VOCABULARY_PARAMETER_PATTERNS = _key("VOCABULARY_PARAMETER_PATTERNS")
UNIVERSAL_CHECKPOINT_VERSION_VALUE: float = take(
    "deepspeed.checkpoint.constants",
    "UNIVERSAL_CHECKPOINT_VERSION_VALUE",
    "its universal checkpoints say which form they have",
)

refuse(NAMES.problems())

OPS = Names()
"""Looked for where a process starts: DeepSpeed finds out about all of its operations when it is asked for them."""

_compatible = OPS.later("deepspeed.ops", "__compatible_ops__", "an operation of no use here would be compiled")


def leave_out_ops(word: str) -> None:
    """DeepSpeed's operations with the word in their names count as not to be had on this machine."""
    compatible = _compatible()
    for name in compatible:
        if word in name:
            compatible[name] = False
