"""What is imported from megatron-core, without DeepSpeed: a plan runs its sliced layers too."""

from typing import Any

from hierlm.parallel import light_megatron  # noqa: F401 - without what it would import along
from hierlm.parallel.seams.seam import Names, refuse

NAMES = Names()
take = NAMES.take

_GROUPS = "megatron.core.parallel_state"
_SLICES = "megatron.core.tensor_parallel"

model_parallel_is_initialized: Any = take(_GROUPS, "model_parallel_is_initialized", "groups are made once a process")
initialize_model_parallel: Any = take(_GROUPS, "initialize_model_parallel", "it makes the groups of a layout")
destroy_model_parallel: Any = take(_GROUPS, "destroy_model_parallel", "another layout needs other groups")
get_tensor_model_parallel_group: Any = take(_GROUPS, "get_tensor_model_parallel_group", "slices are summed over it")
get_data_parallel_group: Any = take(_GROUPS, "get_data_parallel_group", "gradients are summed over it")
get_pipeline_model_parallel_group: Any = take(_GROUPS, "get_pipeline_model_parallel_group", "its last one has the loss")
get_model_parallel_group: Any = take(_GROUPS, "get_model_parallel_group", "norms are summed over it")

ModelParallelConfig: Any = take("megatron.core", "ModelParallelConfig", "its sliced layers are built by one")
ColumnParallelLinear: Any = take(_SLICES, "ColumnParallelLinear", "it holds a slice of a weight's rows")
RowParallelLinear: Any = take(_SLICES, "RowParallelLinear", "it holds a slice of a weight's columns")
VocabParallelEmbedding: Any = take(_SLICES, "VocabParallelEmbedding", "it holds a slice of an embedding")
vocab_parallel_cross_entropy: Any = take(_SLICES, "vocab_parallel_cross_entropy", "logits stay sliced up to the loss")
set_tensor_model_parallel_attributes: Any = take(
    _SLICES, "set_tensor_model_parallel_attributes", "it marks slices, which the gradient norm counts on every rank"
)

refuse(NAMES.problems())
