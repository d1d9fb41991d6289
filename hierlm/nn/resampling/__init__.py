"""From one level to a coarser one and back: by a fixed factor, a drawn one, or groups that end where a boundary says.

A new kind of shortening is a file here and its name in shortening.py.
"""
