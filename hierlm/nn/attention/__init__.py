"""Who looks at whom, and by what: content, distance, rotations, windows.

Rules of sight stand in visibility.py; a new rule is a class there. A new kind of attention is a file that asks a rule,
and leaves the products to the room of kernels.
"""
