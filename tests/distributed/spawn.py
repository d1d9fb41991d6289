"""Run a function on several gloo processes: the one helper of every distributed test, and that of the contract.

What the processes do may build one engine after the other.
"""

import gc

from hierlm.contract.ranks import RankFailedError, run_ranks

__all__ = ["RankFailedError", "end_groups", "run_ranks"]


def end_groups() -> None:
    """Before another engine is built in this process: the groups of those before are ended, and not only forgotten.

    A group keeps threads as long as it lives, and with them every message costs more context switches.
    """
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import _world

    from hierlm.parallel.groups import stop_groups

    stop_groups()
    gc.collect()  # an engine, whose pipeline has groups of its own, is full of circles
    for group in list(_world.pg_map):
        if group is not dist.group.WORLD:
            dist.destroy_process_group(group)
