"""Published training speeds beside what `hierlm.plan` makes of the same layouts.

rows.py reads the table, systems.py says what is known of the systems that were measured, layer_counts.py counts what a
layer of theirs does, by shapes; predict.py hands the counts to `hierlm.plan.step_time`, with its devices and constants.
Nothing is fitted to a row.
"""
