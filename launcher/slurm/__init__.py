"""Slurm: site, job script, submissions, sweeps, chains.

Its commands stand behind one function (client.py), so tests need no Slurm.
"""
