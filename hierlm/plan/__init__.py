"""Analytic costs of a run before it starts: FLOPs, stage cut, memory, communication. Nothing real is allocated.

layer_memory.py runs what `hierlm.parallel` builds and slices, for one rank without its peers, and trace.py looks on;
what a layer keeps, makes and sends is seen there and written nowhere. memory.py and zero_memory.py put those layers
into a stage's step and add what DeepSpeed holds, which is arithmetic; communication.py and step_time.py make messages
and seconds of it, estimate.py judges a layout, layouts.py looks for others.
"""
