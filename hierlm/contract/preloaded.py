"""Imported by the fork server of `hierlm.contract.ranks`: what every rank would find out for itself.

DeepSpeed calls a compiler to learn which of its operations this machine can build.
"""

import gc

from hierlm.parallel.seams.deepspeed_names import leave_out_ops

leave_out_ops("shm")

# what the imports have made lives as long as a rank does: its garbage collections need not look at it
gc.collect()
gc.freeze()
