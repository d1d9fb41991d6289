"""How much memory a piece of work needs at its worst moment, measured two ways that know nothing of each other."""

import resource
from collections.abc import Callable

import psutil
from torch.profiler import ProfilerActivity, profile


def peak_tensor_bytes(work: Callable[[], object]) -> int:
    """The most that torch's CPU allocator held during `work` above what it held before, temporaries of kernels too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def peak_process_bytes(work: Callable[[], object]) -> int:
    """How far `work` raised the resident memory of this process; only of meaning where nothing came higher before."""
    before = psutil.Process().memory_info().rss
    work()
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return max(highest - before, 0)
