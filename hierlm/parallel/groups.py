"""The process groups of a layout, built once for megatron-core, DeepSpeed and ourselves."""

from dataclasses import dataclass

import torch.distributed as dist

from hierlm.errors import UserError
from hierlm.parallel.degrees import Coordinates, Degrees
from hierlm.parallel.seams import megatron_names as megatron

Group = dist.ProcessGroup


@dataclass(frozen=True)
class Groups:
    """This rank's place and its peers on each axis.

    The methods named `get_*` are the interface DeepSpeed calls `mpu`. They make its checkpoints and gradient norms
    treat tensor slices as different parameters and replicated weights as one.
    """

    degrees: Degrees
    place: Coordinates
    tensor: Group
    data: Group
    pipeline: Group
    model: Group  # tensor x pipeline: one whole model

    @property
    def pp_rank(self) -> int:
        return self.place["pipeline"]

    @property
    def dp_rank(self) -> int:
        return self.place["data"]

    @property
    def tp_rank(self) -> int:
        return self.place["tensor"]

    @property
    def is_last_stage(self) -> bool:
        return self.pp_rank == self.degrees["pipeline"] - 1

    @property
    def last_stage_rank(self) -> int:
        """The global rank of this rank's peer on the last stage, which knows the loss."""
        return dist.get_global_rank(self.pipeline, self.degrees["pipeline"] - 1)

    def get_model_parallel_rank(self) -> int:
        return self.pp_rank * self.degrees["tensor"] + self.tp_rank

    def get_model_parallel_world_size(self) -> int:
        return self.degrees["tensor"] * self.degrees["pipeline"]

    def get_model_parallel_group(self) -> Group:
        return self.model

    def get_data_parallel_rank(self) -> int:
        return self.dp_rank

    def get_data_parallel_world_size(self) -> int:
        return self.degrees["data"]

    def get_data_parallel_group(self) -> Group:
        return self.data

    def get_data_parallel_group_ranks(self) -> list[int]:
        return list(dist.get_process_group_ranks(self.data))

    def get_tensor_model_parallel_rank(self) -> int:
        return self.tp_rank

    def get_tensor_model_parallel_world_size(self) -> int:
        return self.degrees["tensor"]

    def get_tensor_model_parallel_group(self) -> Group:
        return self.tensor

    def get_tensor_model_parallel_src_rank(self) -> int:
        return int(dist.get_process_group_ranks(self.tensor)[0])

    def get_pipeline_model_parallel_rank(self) -> int:
        return self.pp_rank

    def get_pipeline_model_parallel_world_size(self) -> int:
        return self.degrees["pipeline"]

    def get_pipeline_model_parallel_group(self) -> Group:
        return self.pipeline


def start_groups(degrees: Degrees) -> Groups:
    """Build the groups of a layout; the processes have joined already (`start_processes`), every rank calls it.

    UserError when the number of processes is not the product of the degrees.
    """
    if degrees.world_size != dist.get_world_size():
        product = " x ".join(f"{axis} {degree}" for axis, degree in degrees.items())
        raise UserError(
            f"parallel: {product} needs {degrees.world_size} processes, "
            f"{dist.get_world_size()} were started; start as many or change a degree"
        )
    if not megatron.model_parallel_is_initialized():
        megatron.initialize_model_parallel(
            tensor_model_parallel_size=degrees["tensor"],
            pipeline_model_parallel_size=degrees["pipeline"],
            create_gloo_process_groups=False,
        )
    return Groups(
        degrees=degrees,
        place=degrees.coordinates(dist.get_rank()),
        tensor=megatron.get_tensor_model_parallel_group(),
        data=megatron.get_data_parallel_group(),
        pipeline=megatron.get_pipeline_model_parallel_group(),
        model=megatron.get_model_parallel_group(),
    )


def stop_groups() -> None:
    """Forget the groups, so that another layout can be started in this process."""
    if megatron.model_parallel_is_initialized():
        megatron.destroy_model_parallel()
