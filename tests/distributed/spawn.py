"""Run a function on several gloo processes: the one helper of every distributed test, and that of the contract."""

from hierlm.contract.ranks import RankFailedError, run_ranks

__all__ = ["RankFailedError", "run_ranks"]
