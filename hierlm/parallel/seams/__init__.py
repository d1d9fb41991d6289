"""Everything of DeepSpeed, megatron-core and private torch that is read or replaced here, each with why: the one place.

These packages promise none of it. What they rename would else be a deadlock, a `None` far away, or nothing at all, so a
start looks for every name of these lists and for the parameters of what is replaced (`start.refuse_missing`); one that
is not there ends the start in one line with the installed and the tried versions.

    deepspeed_names.py, megatron_names.py    what is imported: `take(...)`, one line a name
    engine.py         DeepSpeed's engines, as handles: an attribute that is not listed cannot be read or set
    optimizers.py     what ZeRO puts around the optimizer: bf16's, stages 1 and 2, stage 3
    parameters.py     what both packages hang on parameters and gradients
    questions.py      what its optimizers ask of numbers on a device
    stages.py         DeepSpeed's pipeline module, as a base class with hooks of ours
    slices.py         megatron-core's sliced linear layers
    spoken.py         names that their functions look for on objects of ours
    torch_private.py  private names of torch; imports neither DeepSpeed nor megatron-core
    seam.py, handle.py, versions.py, start.py    how all this is said, looked for and refused

A new one is a line in one of these lists, nothing else; `tests/parallel/test_seams.py` renames each in turn.
"""
