"""How a product is made on this device: torch's fused kernels, or blocks that oneDNN makes faster on a CPU.

Layers call `attend`, `attend_under`, `attend_by_distance` (attend.py), `Linear` (linear.py), `shared_product` and
`softmax_over_few`; which way is taken, by device, type and size, is decided behind them. A new way is a file here that
`attend.py` asks whether it suits. `target.py` says which device tensors without data stand for.

Every file gives the same numbers as the plain formula it stands for, which its test holds beside it.
"""
