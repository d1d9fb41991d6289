"""How a command tells its caller how it ended. The job script knows these numbers too (slurm/train.sh)."""

FAILED = 1
WRONG_INPUT = 2
STOPPED = 85
"""Early, with a checkpoint: the same command goes on."""
TAKEN_OVER = 86
"""Another attempt holds the run: there is nothing to save, and starting this one again would take the run back."""
INTERRUPTED = 130
