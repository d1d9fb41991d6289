"""The verbs of the console script, one file per group. Heavy imports stay inside the functions."""
