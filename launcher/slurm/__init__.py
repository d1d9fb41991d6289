"""Slurm itself: job scripts, the queue, what became of jobs.

Its commands stand behind one function (client.py), so tests need no Slurm.
"""
