"""Runs that were started here or on Slurm: what state each is in, and how that is shown."""
