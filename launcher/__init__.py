"""From a config to a run, here or on Slurm. Never imports torch."""
