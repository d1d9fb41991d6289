"""What a user writes about the layout; world size and gradient accumulation are derived."""

from typing import Literal

from pydantic import Field, PositiveInt

from hierlm.strict import Strict


class ParallelConfig(Strict):
    """world size = data x tensor x pipeline degree."""

    data_parallel_degree: PositiveInt = 1
    tensor_parallel_degree: PositiveInt = 1
    pipeline_parallel_degree: PositiveInt = 1
    zero_stage: int = Field(default=1, ge=0, le=3)
    micro_batch_size: PositiveInt | None = Field(
        default=None, description="sequences per forward pass; default: the whole share of a data-parallel rank"
    )
    reduce_precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="as what a ZeRO stage's gradients travel between data-parallel ranks; bf16 halves the bytes and "
        "rounds every rank's gradient",
    )
    activation_recompute: Literal["none", "selective", "full"] = Field(
        default="none",
        description="what the backward pass computes again; selective: everything but matrix products and attention",
    )
    offload: Literal["none", "optimizer", "parameters"] = Field(
        default="none",
        description="what a ZeRO rank keeps in the host's memory: its share of the optimizer; or (stage 3) of the "
        "weights too",
    )
    sequence_parallel: bool = Field(
        default=False, description="tensor-parallel ranks share out the tokens between their sliced products"
    )
    stage_cut: Literal["cost", "uniform"] | tuple[PositiveInt, ...] = Field(
        default="cost",
        description="cost: the costliest stage is as cheap as can be; uniform: equal layer counts; "
        "or the index of the first layer of every stage after the first",
    )

    @property
    def world_size(self) -> int:
        return self.data_parallel_degree * self.tensor_parallel_degree * self.pipeline_parallel_degree

    def micro_batch(self, *, global_batch_size: int) -> int:
        """Sequences per forward pass of one data-parallel rank."""
        return self.micro_batch_size or global_batch_size // self.data_parallel_degree

    def grad_accumulation_steps(self, *, global_batch_size: int) -> int:
        """Forward passes of one data-parallel rank per optimizer step."""
        return global_batch_size // (self.data_parallel_degree * self.micro_batch(global_batch_size=global_batch_size))
