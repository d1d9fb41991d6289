"""From a config to jobs in the queue, and out of it again: runs, sweeps, preparations, allocations of one's own.

Jobs are written and sent by `launcher.slurm`.
"""
