"""Time as data: durations, phases, learning-rate curves, and what holds at a step. Pure python."""
