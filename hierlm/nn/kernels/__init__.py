"""How a product is made on this device: torch's fused kernels, or blocks that oneDNN makes faster on a CPU.

Every file gives the same numbers as the plain formula it stands for, which its test holds beside it.
"""
