"""Analytic costs of a run before it starts: FLOPs, stage cut, memory, communication. Nothing real is allocated.

layer_memory.py runs what `hierlm.parallel` builds and slices, for one rank without its peers, and trace.py looks on;
what a layer keeps, makes and sends is seen there and written nowhere. memory.py and zero_memory.py put those layers
into a stage's step and add what DeepSpeed holds, which is arithmetic; communication.py counts messages, schedule.py
says what passes beside what, links.py how fast, step_time.py makes seconds of it. estimate.py judges a layout,
search.py finds others among those of layouts.py. Devices and fabrics are files, configs/devices.

Work that is counted and not traced has the same way to seconds: `StageWork` and a `Schedule` of one's own for
`step_time`, products.py for what shapes cost (tests/benchmarks/published does so).
"""
