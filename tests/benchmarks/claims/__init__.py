"""The papers' claims, tried with the system itself; `python -m tests.benchmarks.claims --help`."""
